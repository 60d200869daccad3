# Runtime policy for a PKCS#11 library that needs no endpoint at all: a token in files, or a device node.
# README.md explains the statements. Frequent calls stand first: the kernel compares in this order.

profile local
arch x86_64

# --- limits -----------------------------------------------------------------------------------------------------------
limit core 0
limit nproc 0
limit msgqueue 0
limit nofile 64
limit fsize 1048576
limit memlock 1048576
limit as 1073741824

# --- files ------------------------------------------------------------------------------------------------------------
# The root is the shim's own: exactly the measured files. Nothing may be executed, and only the token directory written.
landlock read /
landlock write /var/lib/softhsm/tokens

# --- denied, and every attempt is shown to the agent --------------------------------------------------------------------
watch execve execveat fork vfork clone clone3
watch socket socketpair connect bind listen accept accept4 sendto
watch ptrace process_vm_readv process_vm_writev process_madvise pidfd_open pidfd_getfd pidfd_send_signal
watch kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
watch io_uring_setup io_uring_enter io_uring_register bpf userfaultfd perf_event_open
watch keyctl add_key request_key mount umount2 pivot_root chroot unshare setns
watch open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
watch memfd_create memfd_secret init_module finit_module kexec_load kexec_file_load
watch landlock_create_ruleset landlock_add_rule landlock_restrict_self
watch seccomp
watch prctl when arg0 is PR_SET_SECCOMP

# --- allowed while the library is loaded, initialised and logged in -------------------------------------------------------
stage load
allow read write getpid openat newfstatat fstat close
allow fcntl when arg1 is F_SETLK
allow fcntl when arg1 is F_SETLKW
allow fcntl when arg1 is F_GETLK
allow fcntl when arg1 is F_GETFD
allow fcntl when arg1 is F_SETFD
allow fcntl when arg1 is F_GETFL
allow futex brk munmap madvise
# never writable and executable at once: a page kept so would take new code after ARM
allow mmap when arg2 without PROT_EXEC
allow mmap when arg2 without PROT_WRITE
allow mprotect when arg2 without PROT_EXEC
allow mprotect when arg2 without PROT_WRITE
allow lseek pread64 readv writev poll getdents64 access faccessat faccessat2
# a log-in rewrites the token's object file
allow ftruncate fsync fdatasync
allow mlock mlock2 munlock getrandom clock_gettime gettimeofday time nanosleep clock_nanosleep sched_yield
allow getuid geteuid getgid getegid gettid
allow rt_sigaction rt_sigprocmask rt_sigreturn
allow prctl when arg0 is PR_SET_NAME
allow exit exit_group restart_syscall
# one message carries the notifier to the agent; the lock filter then removes it, before the library is loaded
allow sendmsg

# --- what is left after ARM: no new code, no file opened for writing --------------------------------------------------------
stage serve
allow read write getpid
allow openat when arg2 only O_CLOEXEC|O_NONBLOCK|O_NOFOLLOW|O_DIRECTORY|O_NOCTTY
allow newfstatat fstat close
allow fcntl when arg1 is F_SETLK
allow fcntl when arg1 is F_SETLKW
allow fcntl when arg1 is F_GETLK
allow fcntl when arg1 is F_GETFD
allow fcntl when arg1 is F_SETFD
allow fcntl when arg1 is F_GETFL
allow futex brk munmap madvise
allow mmap when arg2 without PROT_EXEC
allow mprotect when arg2 without PROT_EXEC
allow lseek pread64 readv writev poll getdents64 access faccessat faccessat2
allow mlock mlock2 munlock getrandom clock_gettime gettimeofday time nanosleep clock_nanosleep sched_yield
allow getuid geteuid getgid getegid gettid
allow rt_sigaction rt_sigprocmask rt_sigreturn exit exit_group restart_syscall
