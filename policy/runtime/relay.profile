# Runtime policy for a PKCS#11 library that reaches its HSM over a stream socket: a network HSM over TCP, or a daemon such
# as pcscd over its Unix socket. In the shim's own network namespace nobody listens but the relay, which forwards each of
# its listeners to the one endpoint that the policy names for it.

include local
profile relay
opens inet unix thread

# glib, pcsc clients and others start a thread when they are initialised: the shim and three of them
limit nproc 4

# whatever directories the policy makes writable there (a sealed client key's, a library's own): all else of the root is read-only
landlock none /var/lib/softhsm/tokens
landlock write /var/lib

# connect is allowed below. bind stays denied, but is not shown: RPC libraries try for a reserved port before they connect
unwatch connect bind sendto
# shown would be every thread's start: its flags are in memory, where no filter can look. Told that there is no such call,
# the C library takes clone, whose flags are in a register
unwatch clone3
absent clone3

stage both
# streams only, and no protocol but TCP: multipath TCP and SCTP are streams as well
allow socket when arg0 is AF_INET and arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is 0
allow socket when arg0 is AF_INET and arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is IPPROTO_TCP
allow socket when arg0 is AF_INET6 and arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is 0
allow socket when arg0 is AF_INET6 and arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is IPPROTO_TCP
allow socket when arg0 is AF_UNIX and arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC and arg2 is 0
allow connect
# no destination: to the other end of a connection only
allow sendto when arg3 only MSG_DONTWAIT|MSG_NOSIGNAL|MSG_MORE and arg4 is 0 and arg5 is 0
allow recvfrom when arg3 only MSG_PEEK|MSG_TRUNC|MSG_DONTWAIT|MSG_WAITALL|MSG_NOSIGNAL
allow ppoll select pselect6
allow shutdown getsockname getpeername
# what was set below, and what a socket is. The others tell who is at the other end (of the shim's own descriptors too) or
# are ways into the kernel
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_ERROR
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_TYPE
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_KEEPALIVE
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_LINGER
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_RCVBUF
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_SNDBUF
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_RCVTIMEO
allow getsockopt when arg1 is SOL_SOCKET and arg2 is SO_SNDTIMEO
allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_NODELAY
allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPIDLE
allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPINTVL
allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPCNT
allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_USER_TIMEOUT
allow setsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_NODELAY
allow setsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPIDLE
allow setsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPINTVL
allow setsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_KEEPCNT
allow setsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_USER_TIMEOUT
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_KEEPALIVE
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_LINGER
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_RCVTIMEO
allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_SNDTIMEO
allow fcntl when arg1 is F_SETFL and arg2 only O_RDWR|O_NONBLOCK
# the first calls of a thread, which may come to them after ARM: the C library aborts when they are denied
allow rseq set_robust_list

# after ARM it may connect again, but starts no more threads
stage load
allow clone when arg0 is CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID
allow eventfd2
