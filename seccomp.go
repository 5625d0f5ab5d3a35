package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"unsafe"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// The seccomp filter (seccomp(2)): a program that the kernel runs before each system call of the command. Capabilities limit
// what a system call may do; the filter keeps the command from entering at all where no container has business and kernel
// bugs have been.
//
// barco's is a denylist, so that it can be read: what is not below is allowed. It covers what Docker's default profile denies
// to its default container. An argument is compared in its low 32 bits alone wherever the kernel reads an int: a comparison of
// all 64 is walked around by setting a bit in the upper half (CVE-2019-10063).
//
// Chapter: docs/09-seccomp.md

// A group is refused as one, and left out as one with --skip seccomp:NAME.
type group struct {
	name  string
	errno unix.Errno // EPERM, or ENOSYS where callers then fall back on an older system call
	calls []call
}

// A call is one system call that is refused: always, or when one of the conditions in when holds.
type call struct {
	name   string
	number int // 0: libseccomp knows it. Else it is newer than some libseccomp in use; from 424 on, a number is the same on every architecture
	when   []condition
	why    string
}

// A condition holds when each of its tests does. A test holds when argument&mask == value: all that the kernel's filters can do cheaply.
type condition []test

type test struct {
	argument    uint
	mask, value uint64
}

const low32 = 0xffffffff

// setID are the mode bits that let a program run as its owner, or with its group: S_ISUID and S_ISGID, inode(7).
func setID(argument uint) []condition {
	return []condition{{{argument, unix.S_ISUID, unix.S_ISUID}}, {{argument, unix.S_ISGID, unix.S_ISGID}}}
}

// setIDWhenMade is setID for a call that looks at its mode only when its flags ask for a new file: O_CREAT, or the bit that makes O_TMPFILE.
func setIDWhenMade(flags, mode uint) (conditions []condition) {
	for _, flag := range []uint64{unix.O_CREAT, unix.O_TMPFILE &^ unix.O_DIRECTORY} {
		for _, bit := range []uint64{unix.S_ISUID, unix.S_ISGID} {
			conditions = append(conditions, condition{{flags, flag, flag}, {mode, bit, bit}})
		}
	}
	return conditions
}

// equals holds when an int argument has one of the values.
func equals(argument uint, values ...uint64) (conditions []condition) {
	for _, value := range values {
		conditions = append(conditions, condition{{argument, low32, value}})
	}
	return conditions
}

// hasAny holds when one of the flags is set.
func hasAny(argument uint, flags ...uint64) (conditions []condition) {
	for _, flag := range flags {
		conditions = append(conditions, condition{{argument, flag, flag}})
	}
	return conditions
}

// otherPersonality holds for every persona but the five that Docker allows: 0 (Linux), PER_LINUX32 (8), UNAME26 (0x20000), both, and
// 0xffffffff, which only asks. A filter cannot say "none of these", so it goes through the bits: one that is in none of the five
// is set while the top bit is not, or the top bit is set and another one is missing.
func otherPersonality() (conditions []condition) {
	const top = 1 << 31
	for bit := uint64(1); bit < top; bit <<= 1 {
		if bit != 8 && bit != 0x20000 {
			conditions = append(conditions, condition{{0, top | bit, bit}})
		}
		conditions = append(conditions, condition{{0, top | bit, top}})
	}
	return conditions
}

// denylist is a function, as a variable would be made whenever barco starts, in both processes, and only one of them wants it.
func denylist() []group {
	return []group{
		{"mount", unix.EPERM, []call{
			{name: "mount", why: "rearranges the tree that the masks and read-only mounts are part of"},
			{name: "umount2", why: "uncovers what is masked"},
			{name: "pivot_root", why: "changes the root"},
			{name: "open_tree", why: "the new mount API, clone3's sisters: the same powers in pieces"},
			{name: "move_mount", why: "new mount API"},
			{name: "fsopen", why: "new mount API"},
			{name: "fsconfig", why: "new mount API: CVE-2022-0185 was a heap overflow in it"},
			{name: "fsmount", why: "new mount API"},
			{name: "fspick", why: "new mount API"},
			{name: "mount_setattr", why: "new mount API: makes a read-only mount writable"},
		}},
		{"namespace", unix.EPERM, []call{
			{name: "unshare", why: "a new user namespace gives every capability, and with it most of the kernel's attack surface"},
			{name: "setns", why: "joins another namespace"},
			{name: "clone", why: "the same as unshare, with these flags", when: hasAny(0, unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP,
				unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET)},
		}},
		{"struct-args", unix.ENOSYS, []call{
			{name: "clone3", why: "its flags are behind a pointer, where no filter can see them; the C library falls back on clone"},
			{name: "openat2", why: "so is its mode: see setid; callers fall back on openat"},
		}},
		{"kernel-code", unix.EPERM, []call{
			{name: "init_module", why: "loads code into the kernel"},
			{name: "finit_module", why: "loads code into the kernel"},
			{name: "delete_module", why: "removes code from it"},
			{name: "kexec_load", why: "replaces the kernel"},
			{name: "kexec_file_load", why: "replaces the kernel"},
			{name: "reboot", why: "stops the machine"},
			{name: "bpf", why: "runs programs in the kernel"},
		}},
		{"attack-surface", unix.EPERM, []call{
			{name: "io_uring_setup", why: "does other calls' work without entering them, so no filter sees it; many bugs"},
			{name: "io_uring_enter", why: "see io_uring_setup"},
			{name: "io_uring_register", why: "see io_uring_setup"},
			{name: "userfaultfd", why: "stops the kernel in mid-copy, which turns its races into reliable exploits"},
			{name: "perf_event_open", why: "watches the processor, others' work included; many bugs"},
			{name: "fanotify_init", why: "watches the files of a whole filesystem"},
		}},
		{"keyring", unix.EPERM, []call{
			{name: "add_key", why: "keyrings belong to users, not to namespaces: keyrings(7)"},
			{name: "request_key", why: "and starts a program on the host"},
			{name: "keyctl", why: "reads and changes keys"},
		}},
		{"file-handle", unix.EPERM, []call{
			{name: "open_by_handle_at", why: "opens files by number, past every directory: the 2014 escape from Docker"},
		}},
		{"cross-process", unix.EPERM, []call{
			{name: "ptrace", why: "takes over another process, and once walked around filters"},
			{name: "process_vm_readv", why: "reads another process's memory"},
			{name: "process_vm_writev", why: "writes it"},
			{name: "process_madvise", why: "changes how the kernel treats it"},
			{name: "pidfd_getfd", why: "takes another process's descriptors"},
			{name: "kcmp", why: "tells the order of kernel addresses"},
		}},
		{"numa", unix.EPERM, []call{
			{name: "mbind", why: "the placing of memory among processors is the host's business"},
			{name: "set_mempolicy", why: "see mbind"},
			{name: "get_mempolicy", why: "tells where memory lies"},
			{name: "set_mempolicy_home_node", why: "see mbind"},
			{name: "migrate_pages", why: "see mbind"},
			{name: "move_pages", why: "see mbind"},
		}},
		{"host-state", unix.EPERM, []call{
			{name: "settimeofday", why: "there is one clock for all"},
			{name: "clock_settime", why: "there is one clock for all"},
			{name: "swapon", why: "the host's memory"},
			{name: "swapoff", why: "the host's memory"},
			{name: "acct", why: "the host's accounting"},
			{name: "quotactl", why: "the host's disks"},
			{name: "quotactl_fd", why: "the host's disks"},
			{name: "sethostname", why: "barco has set it"},
			{name: "setdomainname", why: "the same for NIS"},
			{name: "vhangup", why: "takes the terminal from everyone on it"},
			{name: "iopl", why: "the hardware's ports"},
			{name: "ioperm", why: "the hardware's ports"},
		}},
		{"host-info", unix.EPERM, []call{
			{name: "syslog", why: "the kernel's log, with its addresses"},
			{name: "lookup_dcookie", why: "the host's paths"},
			{name: "sysfs", why: "which filesystems the kernel has"},
			{name: "ustat", why: "the host's disks"},
			{name: "lsm_get_self_attr", number: 459, why: "the host's security modules"},
			{name: "lsm_set_self_attr", number: 460, why: "the host's security modules"},
			{name: "lsm_list_modules", number: 461, why: "the host's security modules"},
		}},
		{"obsolete", unix.EPERM, []call{
			{name: "uselib", why: "nobody uses it, so nobody would notice a bug in it; so for the rest of this group"},
			{name: "_sysctl", why: "obsolete"},
			{name: "create_module", why: "obsolete"},
			{name: "get_kernel_syms", why: "obsolete"},
			{name: "query_module", why: "obsolete"},
			{name: "nfsservctl", why: "obsolete"},
			{name: "getpmsg", why: "obsolete"},
			{name: "putpmsg", why: "obsolete"},
			{name: "afs_syscall", why: "obsolete"},
			{name: "tuxcall", why: "obsolete"},
			{name: "security", why: "obsolete"},
			{name: "vserver", why: "obsolete"},
		}},
		{"too-new", unix.ENOSYS, append([]call{
			{name: "open_tree_attr", number: 467, why: "new mount API, Linux 6.15"},
			{name: "file_getattr", number: 468, why: "Linux 6.17, not yet in Docker's profile"},
			{name: "file_setattr", number: 469, why: "Linux 6.17, not yet in Docker's profile"},
			{name: "listns", number: 470, why: "lists the host's namespaces, Linux 6.19"},
			{name: "rseq_slice_yield", number: 471, why: "Linux 7, not yet in Docker's profile"},
		}, unreviewed()...)},
		{"socket", unix.EPERM, []call{
			{name: "socket", when: equals(0, unix.AF_ALG, unix.AF_VSOCK), why: "AF_ALG wrote to files opened read-only (CVE-2026-31431); AF_VSOCK reaches the hypervisor"},
		}},
		{"tty", unix.EPERM, []call{
			{name: "ioctl", when: equals(1, unix.TIOCSTI, unix.TIOCLINUX), why: "types on the terminal as if the user had: CVE-2017-5226, CVE-2023-28100"},
		}},
		{"setid", unix.EPERM, []call{
			{name: "chmod", when: setID(1), why: "makes a set-user-ID or set-group-ID program, which an accomplice on the host could run; so for the rest of this group"},
			{name: "fchmod", when: setID(1), why: "see chmod"},
			{name: "fchmodat", when: setID(2), why: "see chmod"},
			{name: "fchmodat2", number: 452, when: setID(2), why: "see chmod; filters older than Linux 6.6 forget it"},
			{name: "creat", when: setID(1), why: "see chmod"},
			{name: "mknod", when: setID(1), why: "see chmod"},
			{name: "mknodat", when: setID(2), why: "see chmod"},
			{name: "open", when: setIDWhenMade(1, 2), why: "see chmod"},
			{name: "openat", when: setIDWhenMade(2, 3), why: "see chmod"},
		}},
		{"personality", unix.EPERM, []call{
			{name: "personality", when: otherPersonality(), why: "switches off address randomisation, or maps page 0: it makes exploits easier"},
		}},
	}
}

// newestReviewed is the last system call that this list has an opinion on: Linux 7.2. Those that come after it get ENOSYS, as
// if the kernel were older, and callers fall back.
const newestReviewed = 471

func unreviewed() (calls []call) {
	for number := newestReviewed + 1; number < 512; number++ { // 512: where x86-64 keeps the numbers of another ABI
		calls = append(calls, call{name: fmt.Sprintf("syscall_%d", number), number: number, why: "newer than this list"})
	}
	return calls
}

// seccompGroups are the names that --skip takes for parts of the filter.
func seccompGroups() (names []string) {
	for _, g := range denylist() {
		names = append(names, "seccomp:"+g.name)
	}
	return names
}

// compileFilter turns the denylist into the program that the kernel is to run, for a machine of its own (the kernel's
// Documentation/networking/filter.rst). The parent does it, who has nothing else to do while the child starts: it takes longer than all of
// the child's mounts. Parent.
func compileFilter(config *Config) (program []byte, err error) {
	if config.skips("seccomp") {
		return nil, nil
	}
	filter, rules, err := buildFilter(config.Skip)
	if err != nil {
		return nil, in("seccomp", err)
	}
	defer filter.Release()
	info("compiling a seccomp filter of %d rules...", rules)
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC) // libseccomp writes it to a file, and to nothing else
	if err := sys(err, `memfd_create("seccomp", MFD_CLOEXEC) = %d`, fd); err != nil {
		return nil, in("seccomp", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp")
	defer file.Close()
	if err := filter.ExportBPF(file); err != nil {
		return nil, in("seccomp", failed(err, "seccomp_export_bpf(%d)", fd))
	}
	program = make([]byte, 8*maxInstructions)
	n, err := unix.Pread(fd, program, 0)
	return program[:max(0, n)], in("seccomp", sys(err, "pread(%d) = %d", fd, n))
}

// maxInstructions are as many as the kernel takes, of eight bytes each (BPF_MAXINSNS).
const maxInstructions = 4096

// loadSeccomp puts the filter on this thread, the one that will call execve. It stays on the command and on all that it
// starts, for ever. no_new_privs (prctl(2)) stays off, as in Docker: with it, su and sudo inside would stop working. Setting it is
// the price of loading a filter without CAP_SYS_ADMIN, which we still have. Child.
func loadSeccomp(c *child) error {
	program := make([]unix.SockFilter, len(c.filter)/8)
	if _, err := binary.Decode(c.filter, binary.NativeEndian, program); err != nil || len(program) == 0 {
		return refuse("the parent sent no seccomp filter")
	}
	info("loading the seccomp filter, a program of %d instructions...", len(program))
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})))
	return sys(errnoOrNil(errno), "seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=%d})", len(program))
}

// buildFilter turns the denylist into a libseccomp filter, less the groups in skip.
func buildFilter(skip []string) (filter *libseccomp.ScmpFilter, rules int, err error) {
	filter, err = libseccomp.NewFilter(libseccomp.ActAllow)
	if err != nil {
		return nil, 0, failed(err, "seccomp_init(SCMP_ACT_ALLOW)")
	}
	// The filter knows this machine's own system calls. i386's and x32's have other numbers, so who uses those is killed, the whole process.
	if err := filter.SetBadArchAction(libseccomp.ActKillProcess); err != nil {
		return nil, 0, failed(err, "seccomp_attr_set(SCMP_FLTATR_ACT_BADARCH)")
	}
	// A binary tree, not a list: the kernel finds a call's number in a few steps, not in hundreds. It does so on each call whose arguments
	// count, and when the filter is loaded, to learn which calls need no filter any more.
	if err := filter.SetOptimize(2); err != nil {
		return nil, 0, failed(err, "seccomp_attr_set(SCMP_FLTATR_CTL_OPTIMIZE)")
	}
	for _, g := range denylist() {
		if slices.Contains(skip, "seccomp:"+g.name) {
			warn("LEFT OUT, as --skip seccomp:%s asks: %d system calls", g.name, len(g.calls))
			continue
		}
		refusal := libseccomp.ActErrno.SetReturnCode(int16(g.errno))
		for _, call := range g.calls {
			n, err := call.add(filter, refusal)
			if err != nil {
				return nil, 0, err
			}
			rules += n
		}
	}
	return filter, rules, nil
}

// add adds the call's rules to the filter and returns how many they are. A call that this architecture does not have needs none: libseccomp sees to that.
func (call *call) add(filter *libseccomp.ScmpFilter, refusal libseccomp.ScmpAction) (rules int, err error) {
	number := libseccomp.ScmpSyscall(call.number)
	if call.number == 0 {
		if number, err = libseccomp.GetSyscallFromName(call.name); err != nil {
			return 0, failed(err, "seccomp_syscall_resolve_name(%q)", call.name)
		}
	}
	if call.when == nil {
		if err := filter.AddRule(number, refusal); err != nil {
			return 0, failed(err, "seccomp_rule_add(%s)", call.name)
		}
		return 1, nil
	}
	for _, condition := range call.when {
		var tests []libseccomp.ScmpCondition
		for _, t := range condition {
			test, err := libseccomp.MakeCondition(t.argument, libseccomp.CompareMaskedEqual, t.mask, t.value)
			if err != nil {
				return 0, failed(err, "SCMP_CMP(%d, SCMP_CMP_MASKED_EQ, %#x, %#x)", t.argument, t.mask, t.value)
			}
			tests = append(tests, test)
		}
		if err := filter.AddRuleConditional(number, refusal, tests); err != nil {
			return 0, failed(err, "seccomp_rule_add(%s, %v)", call.name, condition)
		}
	}
	return len(call.when), nil
}
