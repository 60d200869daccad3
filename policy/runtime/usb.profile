# Runtime policy for a PKCS#11 library that drives its HSM through a device node, by libusb or by reading and writing.
# The shim's /dev holds the nodes that the policy names and nothing else.

include local
profile usb
opens netlink thread device

# libusb starts a thread that waits for devices to come and go: the shim and three of them
limit nproc 4

# as in relay.profile
landlock none /var/lib/softhsm/tokens
landlock write /var/lib
landlock device /dev

# bind is for the netlink socket below: there is no other in this profile
unwatch bind
# see relay.profile
unwatch clone3
absent clone3

# a device that is open is used in both stages
stage both
allow ioctl when arg1 is USBDEVFS_SUBMITURB
allow ioctl when arg1 is USBDEVFS_REAPURBNDELAY
allow ioctl when arg1 is USBDEVFS_REAPURB
allow ioctl when arg1 is USBDEVFS_DISCARDURB
allow ioctl when arg1 is USBDEVFS_CONTROL
allow ioctl when arg1 is USBDEVFS_BULK
allow ioctl when arg1 is USBDEVFS_CLEAR_HALT
allow ioctl when arg1 is USBDEVFS_RELEASEINTERFACE
allow timerfd_settime ppoll
# see relay.profile
allow rseq set_robust_list

# after ARM none is opened, configured or waited for
stage load
# not there: resetting the device, taking it from a kernel driver, orders to a kernel driver
allow ioctl when arg1 is USBDEVFS_GET_CAPABILITIES
allow ioctl when arg1 is USBDEVFS_GET_SPEED
allow ioctl when arg1 is USBDEVFS_GETDRIVER
allow ioctl when arg1 is USBDEVFS_SETCONFIGURATION
allow ioctl when arg1 is USBDEVFS_SETINTERFACE
allow ioctl when arg1 is USBDEVFS_CLAIMINTERFACE
# libusb does not start without the socket of the kernel's device events, though it never waits for one to arrive: what comes
# with recvmsg is refused by the lock filter
allow socket when arg0 is AF_NETLINK and arg1 only SOCK_RAW|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is NETLINK_KOBJECT_UEVENT
allow bind when arg2 is 12
allow getsockname
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_RCVBUF
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_RCVBUF
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_ATTACH_FILTER
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_PASSCRED
allow recvfrom when arg3 only MSG_PEEK|MSG_TRUNC|MSG_DONTWAIT|MSG_NOSIGNAL
allow clone when arg0 is CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID
allow eventfd2 timerfd_create uname readlink readlinkat
