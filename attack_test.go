package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What somebody inside, or somebody careless outside, might try.

// A pipe that is a standard stream can be opened anew in its own direction, and in that one alone: on the other side of it may
// be a shell of the host's that reads its script.
func TestPipes(t *testing.T) {
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	fmt.Fprintln(writer, "a line for later")
	writer.Close()
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c",
		"(echo injected > /dev/stdin) 2>&1; (cat < /dev/stdout) 2>&1; echo to stdout > /dev/stdout; echo to stderr > /dev/stderr; read x < /dev/stdin; echo $x")
	cmd.Stdin = reader
	r := finish(t, cmd)
	equal(t, "standard output", r.stdout, "/bin/sh: can't create /dev/stdin: Permission denied\n/bin/sh: can't open /dev/stdout: Permission denied\nto stdout\na line for later\n")
	equal(t, "standard error", r.stderr, "to stderr\n")
}

// With a directory of the host's as a standard stream, the command could leave its root.
func TestDirectoryAsStandardStream(t *testing.T) {
	cmd := command("-q", "-m", "/", "-c", "/bin/true")
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	cmd.Stdin = dir
	r := finish(t, cmd)
	if r.status != statusBarcoFailed || !strings.Contains(r.stderr, "standard input is a directory of the host") {
		t.Errorf("%+v", r)
	}
}

// A directory of the host's that barco was started with reaches neither the command nor --workdir (CVE-2024-21626).
func TestInheritedDirectory(t *testing.T) {
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	for fd := 3; fd < 10; fd++ {
		r := startedWith(t, dir, "-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--workdir", fmt.Sprintf("/proc/self/fd/%d", fd), "--", "-c", "cd ..; [ ! -e usr ] || echo out")
		if r.stdout != "" {
			t.Errorf("by way of descriptor %d: %+v", fd, r)
		}
		if r := startedWith(t, dir, "-q", "-m", busyboxRoot(t), "-c", fmt.Sprintf("/proc/self/fd/%d/bin/true", fd)); r.status == 0 {
			t.Errorf("the host's program by way of descriptor %d: %+v", fd, r)
		}
	}
}

// startedWith runs a barco that has dir open as each of the descriptors from 3 to 9.
func startedWith(t *testing.T, dir *os.File, args ...string) result {
	cmd := command(args...)
	for range 7 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, dir)
	}
	return finish(t, cmd)
}

// Two containers share neither a session nor a process group, though their ids are the same on the host.
func TestContainersAreApart(t *testing.T) {
	root := busyboxRoot(t)
	cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; echo alive")
	stdin, stdout := start(t, cmd)
	barco(t, "-q", "-m", root, "-c", "/bin/sh", "--", "-c", "kill -9 0; kill -9 -1")
	fmt.Fprintln(stdin)
	if line, _ := stdout.ReadString('\n'); line != "alive\n" {
		t.Errorf("it said %q", line)
	}
	cmd.Wait()
}

// A program in DIR that was made to confuse whoever reads it is read in bounds, and its text is quoted.
func TestHostileProgram(t *testing.T) {
	root := busyboxRoot(t)
	program := make([]byte, 64+56)
	copy(program, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(program[18:], 62) // e_machine
	binary.LittleEndian.PutUint64(program[32:], 64) // e_phoff
	binary.LittleEndian.PutUint64(program[40:], 64) // e_shoff
	binary.LittleEndian.PutUint16(program[54:], 56) // e_phentsize
	binary.LittleEndian.PutUint16(program[56:], 65535)
	binary.LittleEndian.PutUint32(program[64:], 3)        // PT_INTERP
	binary.LittleEndian.PutUint64(program[64+8:], 1<<62)  // p_offset
	binary.LittleEndian.PutUint64(program[64+32:], 1<<62) // p_filesz
	must(t, os.WriteFile(root+"/evil", program, 0o755))
	must(t, os.Truncate(root+"/evil", 200<<30)) // sparse
	if r := barco(t, "-q", "-m", root, "-c", "/evil"); r.status != statusNotExecutable || strings.Count(r.stderr, "\n") > 3 {
		t.Errorf("%+v", r)
	}
	must(t, os.Symlink("/x\x1b]0;pwned\a\nbarco: hint: run evil", root+"/escape"))
	if r := barco(t, "-q", "-m", root, "-c", "/escape"); r.status != statusNotFound || strings.ContainsAny(r.stderr, "\x1b\a") || strings.Count(r.stderr, "\n") != 2 {
		t.Errorf("%+v", r)
	}
	for range 1000 { // readELF believes nothing
		noise := bytes.Clone(program)
		for range 20 {
			noise[rand.N(len(noise))] = byte(rand.Uint32())
		}
		readELF(noise[:rand.N(len(noise))])
	}
}

// A cgroup that is not barco's stays, whatever it is called.
func TestForeignCgroup(t *testing.T) {
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	for _, name := range []string{"barco-web", "barco-1-2-3", "barco-", "barco-12"} {
		path := top + "/" + name
		must(t, os.Mkdir(path, 0o755))
		barco(t, "-q", "-m", "/", "-c", "/bin/true")
		if err := os.Remove(path); err != nil {
			t.Errorf("%s was removed: %v", path, err)
		}
	}
}

// The lock that tells a living barco's cgroup from a dead one's can be taken by nobody but root: not by another user, nor from inside.
func TestLockOutOfReach(t *testing.T) {
	got := inside(t, busyboxRoot(t), "exec 2>&1; cat /sys/fs/cgroup/cgroup.kill; (: > /sys/fs/cgroup/cgroup.kill); true")
	if strings.Count(got, "Permission denied")+strings.Count(got, "Read-only file system") != 2 {
		t.Errorf("cgroup.kill can be opened inside: %s", got)
	}
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	logLevel = levelError
	defer func() { logLevel = levelInfo }()
	group, err := newCgroup(top)
	must(t, err)
	defer group.remove()
	var stat unix.Stat_t
	must(t, unix.Stat(group.path+"/cgroup.kill", &stat))
	if stat.Mode&0o077 != 0 || stat.Uid != 0 {
		t.Errorf("cgroup.kill has mode %o and owner %d", stat.Mode, stat.Uid)
	}
	if _, err := lock(group.path); err == nil {
		t.Error("a second barco got the lock")
	}
}

// The container cannot use up what root may watch: its own limit is lower, and root's is what it was.
func TestInotifyLimit(t *testing.T) {
	const path = "/proc/sys/user/max_inotify_instances"
	before, err := os.ReadFile(path)
	must(t, err)
	for _, skip := range [][]string{nil, {"--skip", "userns"}, {"--skip", "pid"}} {
		want := string(before)
		if skip == nil {
			want = "64\n"
		}
		r := barco(t, append([]string{"-q", "-m", busyboxRoot(t), "-c", "/bin/cat", "-a", path}, skip...)...)
		if skip == nil || skip[1] == "userns" {
			equal(t, strings.Join(skip, " ")+" inside", r.stdout, want)
		}
	}
	after, err := os.ReadFile(path)
	must(t, err)
	equal(t, "on the host", string(after), string(before))
}

// A signal at any moment of a short life: the status says so or is the command's own, and nothing is left.
func TestSignalAtRandom(t *testing.T) {
	root := busyboxRoot(t)
	before := hostState()
	begin := time.Now()
	barco(t, "-q", "-m", root, "-c", "/bin/true")
	whole := time.Since(begin)
	for i := range 60 {
		signal := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}[i%3]
		cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "exit 7")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Start())
		kill := time.AfterFunc(whole/10+rand.N(whole), func() { cmd.Process.Signal(signal) }) // a tenth: before that, Go itself is starting
		cmd.Wait()
		kill.Stop()
		if status := cmd.ProcessState.ExitCode(); status != 7 && status != 128+int(signal) && status != -1 || strings.Contains(stderr.String(), "goroutine") {
			t.Errorf("%v: status %d, and it said %s", signal, status, stderr.String())
		}
	}
	sameHost(t, before)
}

// Nobody reads the narration any more: the container goes on, and nothing is left behind.
func TestBrokenPipe(t *testing.T) {
	before := hostState()
	cmd := command("-v", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "exit 7")
	reader, writer, err := os.Pipe()
	must(t, err)
	reader.Close()
	cmd.Stderr = writer
	cmd.Run()
	writer.Close()
	if status := cmd.ProcessState.ExitCode(); status != 7 {
		t.Errorf("status %d", status)
	}
	sameHost(t, before)
}

// A signal that barco's caller had blocked is not blocked for the command.
func TestSignalMask(t *testing.T) {
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/cat", "-a", "/proc/self/status")
	cmd.Env = append(cmd.Env, situationVariable+"=SIGALRM blocked")
	r := finish(t, cmd)
	equal(t, "SigBlk", statusField(r.stdout, "SigBlk"), "0000000000000000")
}

// The program that the container was started by cannot be overwritten from inside (CVE-2019-5736): it belongs to nobody there, or
// it is a copy that is sealed.
func TestOwnProgram(t *testing.T) {
	root := userRoot(t)
	exe, err := os.Executable()
	must(t, err)
	copyLibraries(t, exe, root) // for the command to run, when it is barco itself
	args := []string{"-q", "-m", root, "-c", "/proc/self/exe", "--env", probeVariable + "=exe"}
	if r := barco(t, args...); !strings.HasPrefix(r.stdout, "true, ") {
		t.Errorf("as root: %+v", r)
	}
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	r := finish(t, asUser(command(args...)))
	var denied bool
	var seals int
	if _, err := fmt.Sscanf(r.stdout, "%t, seals %v", &denied, &seals); err != nil || seals&all != all {
		t.Errorf("as a user: %+v", r)
	}
}

// attack tries the well-known ways past a filter, with arguments that would work without it, and prints how many, and those
// that were not answered as they should be.
func attack() {
	debug.SetGCPercent(-1) // the kernel's pointers are no references to Go
	number := 0
	try := func(want unix.Errno, name string, call uintptr, arguments ...uintptr) {
		var a [6]uintptr
		copy(a[:], arguments)
		number++
		if _, _, errno := unix.RawSyscall6(call, a[0], a[1], a[2], a[3], a[4], a[5]); errno != want {
			fmt.Printf("%s: %q, want %q\n", name, unix.ErrnoName(errno), unix.ErrnoName(want))
		}
	}
	text := func(s string) uintptr {
		pointedTo = append(pointedTo, append([]byte(s), make([]byte, 128)...))
		return uintptr(unsafe.Pointer(&pointedTo[len(pointedTo)-1][0]))
	}
	file, err := os.CreateTemp("/tmp", "file")
	if err != nil {
		panic(err)
	}
	const (
		upper = 1 << 32      // a bit that the kernel does not look at
		here  = ^uintptr(99) // AT_FDCWD
		done  = unix.Errno(0)
	)
	fd, tmp := file.Fd(), text("/tmp")
	for _, more := range []uintptr{0, upper} {
		try(unix.EPERM, "ioctl TIOCSTI", unix.SYS_IOCTL, 0, unix.TIOCSTI|more, text("x"))
		try(unix.EPERM, "ioctl TIOCLINUX", unix.SYS_IOCTL, 0, unix.TIOCLINUX|more, text("x"))
		try(unix.EPERM, "socket AF_ALG", unix.SYS_SOCKET, unix.AF_ALG|more, unix.SOCK_SEQPACKET)
		try(unix.EPERM, "socket AF_VSOCK", unix.SYS_SOCKET, unix.AF_VSOCK|more, unix.SOCK_STREAM)
		try(unix.EPERM, "unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER|more)
		for _, mode := range []uintptr{0o4755, 0o2755, 0o6755} {
			name := text(fmt.Sprintf("/tmp/%o", mode))
			mode |= more
			try(unix.EPERM, "fchmod", unix.SYS_FCHMOD, fd, mode)
			try(unix.EPERM, "fchmodat", unix.SYS_FCHMODAT, here, tmp, mode)
			try(unix.EPERM, "fchmodat2", unix.SYS_FCHMODAT2, here, tmp, mode, 0)
			try(unix.EPERM, "openat", unix.SYS_OPENAT, here, name, unix.O_CREAT|unix.O_WRONLY, mode)
			try(unix.EPERM, "openat O_TMPFILE", unix.SYS_OPENAT, here, tmp, unix.O_TMPFILE|unix.O_WRONLY, mode)
			try(unix.EPERM, "mknodat", unix.SYS_MKNODAT, here, name, unix.S_IFREG|mode, 0)
		}
	}
	how := make([]byte, unsafe.Sizeof(unix.OpenHow{}))
	binary.NativeEndian.PutUint64(how, unix.O_CREAT|unix.O_WRONLY)
	binary.NativeEndian.PutUint64(how[8:], 0o4755)
	try(unix.ENOSYS, "openat2", unix.SYS_OPENAT2, here, text("/tmp/openat2"), text(string(how)), uintptr(len(how)))
	cloneArgs := binary.NativeEndian.AppendUint64(nil, unix.CLONE_NEWUSER)
	try(unix.ENOSYS, "clone3", unix.SYS_CLONE3, text(string(cloneArgs)), 64)
	try(unix.EPERM, "clone", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))
	try(unix.EPERM, "setns", unix.SYS_SETNS, fd, 0)
	try(unix.EPERM, "mount", unix.SYS_MOUNT, text("x"), tmp, text("tmpfs"), 0, 0)
	try(unix.EPERM, "umount2", unix.SYS_UMOUNT2, text("/proc/kcore"), unix.MNT_DETACH)
	try(unix.EPERM, "open_tree", unix.SYS_OPEN_TREE, here, tmp, unix.OPEN_TREE_CLONE)
	try(unix.EPERM, "io_uring_setup", unix.SYS_IO_URING_SETUP, 1, text(""))
	try(unix.EPERM, "bpf", unix.SYS_BPF, 0, text(""), 8)
	try(unix.EPERM, "keyctl", unix.SYS_KEYCTL, 0, 0, 0)
	try(unix.EPERM, "open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, fd, text(""), 0)
	try(unix.ENOSYS, "a system call newer than the list", newestReviewed+1)
	try(unix.ENOSYS, "a system call of the far future", 9999)
	// And their harmless neighbours.
	try(done, "socket AF_INET", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)
	try(done, "socket AF_UNIX", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)
	try(done, "fchmod 01755", unix.SYS_FCHMOD, fd, 0o1755)
	try(done, "openat for reading, with a mode that means nothing", unix.SYS_OPENAT, here, tmp, unix.O_RDONLY, 0o4755)

	// chroot(2) is no jail, so a root that was chrooted to could be left; the container's cannot.
	os.Mkdir("/tmp/jail", 0o755)
	root, _ := os.Open("/")
	unix.Chroot("/tmp/jail")
	root.Chdir()
	for range 20 {
		os.Chdir("..")
	}
	unix.Chroot(".")
	names, _ := filepath.Glob("/*")
	fmt.Printf("%d attacks; out of the jail: %v\n", number, names)
}

var pointedTo [][]byte // what the kernel was given pointers to

func TestAttacks(t *testing.T) {
	root := probeRoot(t)
	names, _ := filepath.Glob(root + "/*")
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], root)
	}
	for _, args := range [][]string{nil, {"--no-new-privs"}} {
		r := barco(t, append([]string{"-q", "-m", root, "-c", "/bin/probe", "--env", probeVariable + "=attacks"}, args...)...)
		equal(t, "inside", r.stdout, fmt.Sprintf("63 attacks; out of the jail: %v\n", names))
	}
	r := barco(t, "-q", "-m", root, "-c", "/bin/probe", "--env", probeVariable+"=attacks", "--skip", "seccomp")
	if strings.Count(r.stdout, "want \"EPERM\"") < 40 {
		t.Errorf("the attacks do not work without the filter either:\n%s", r.stdout)
	}
}

// Programs of another ABI enter the kernel by numbers that mean something else. They are killed, and told why.
func TestForeignABI(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("i386 and x32 are ABIs of x86-64")
	}
	root := busyboxRoot(t)
	for name, code := range map[string]string{
		"int 0x80": "\xb8\x14\x00\x00\x00\xcd\x80", // mov $20, %eax; int $0x80: i386's getpid
		"x32":      "\xb8\x27\x00\x00\x40\x0f\x05", // mov $0x40000027, %eax; syscall: x32's getpid
	} {
		must(t, os.WriteFile(root+"/program", tinyProgram(code+"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"), 0o755)) // mov $60, %eax; xor %edi, %edi; syscall: exit(0)
		r := barco(t, "-m", root, "-c", "/program")
		if r.status != 128+int(unix.SIGSYS) || !strings.Contains(r.stderr, "killed by SIGSYS") || !strings.Contains(r.stderr, "likely it is a 32-bit program") {
			t.Errorf("%s: %+v", name, r)
		}
		if r := barco(t, "-m", root, "-c", "/program", "--skip", "seccomp"); r.status != 0 {
			t.Errorf("%s without the filter: %+v", name, r)
		}
	}
}

// tinyProgram is an x86-64 ELF program that is nothing but its code.
func tinyProgram(code string) []byte {
	program := dynamicProgram(make([]byte, 64)) // for its layout: a header, and one program header
	copy(program, "\x7fELF\x02\x01\x01")
	put := func(offset int, value uint64) { binary.LittleEndian.PutUint64(program[offset:], value) }
	binary.LittleEndian.PutUint32(program[16:], 62<<16|2) // e_machine, e_type: ET_EXEC
	binary.LittleEndian.PutUint32(program[20:], 1)        // e_version
	put(24, 0x400000+64+56)                               // e_entry
	binary.LittleEndian.PutUint16(program[52:], 64)       // e_ehsize
	binary.LittleEndian.PutUint16(program[54:], 56)       // e_phentsize
	binary.LittleEndian.PutUint32(program[64:], 1)        // PT_LOAD
	binary.LittleEndian.PutUint32(program[68:], 5)        // PF_R|PF_X
	put(72, 0)
	put(80, 0x400000) // p_vaddr
	put(88, 0x400000)
	put(96, uint64(64+56+len(code)))
	put(104, uint64(64+56+len(code)))
	put(112, 4096)
	return append(program[:64+56], code...)
}

// Set-user-ID programs and file capabilities of the host's tree gain nothing, those of the container's own ids what it may have at
// most, and with --no-new-privs nothing either.
func TestSetUserID(t *testing.T) {
	root := probeRoot(t)
	const noCaps, ten = "0000000000000000", "00000000000425eb"
	run := func(args ...string) string {
		r := barco(t, append([]string{"-q", "-m", root, "-u", "1000", "-c", "/bin/probe", "--env", probeVariable + "=ids"}, args...)...)
		return r.stdout + r.stderr
	}
	const nothing = "uid 1000 1000 1000 1000, capabilities " + noCaps + "\n"
	must(t, unix.Chmod(root+"/bin/probe", 0o4755)) // root's on the host
	equal(t, "set-user-ID root of the host", run(), nothing)
	equal(t, "the same, with --no-new-privs", run("--no-new-privs"), nothing)

	must(t, os.Chmod(root+"/bin/probe", 0o755))
	data := make([]byte, 20) // struct vfs_cap_data: VFS_CAP_REVISION_2, effective; CAP_NET_RAW
	binary.LittleEndian.PutUint32(data, 0x02000001)
	binary.LittleEndian.PutUint32(data[4:], 1<<unix.CAP_NET_RAW)
	must(t, unix.Setxattr(root+"/bin/probe", "security.capability", data, 0))
	equal(t, "file capabilities of the host", run(), nothing)
	equal(t, "the same, with --no-new-privs", run("--no-new-privs"), nothing)

	must(t, os.Chown(root, hostIDs, hostIDs)) // from here on it is the container's own tree
	must(t, os.Chown(root+"/bin/probe", hostIDs, hostIDs))
	must(t, unix.Chmod(root+"/bin/probe", 0o4755)) // root's inside
	equal(t, "set-user-ID root inside", run(), "uid 1000 0 0 0, capabilities "+ten+"\n")
	equal(t, "the same, with --no-new-privs", run("--no-new-privs"), nothing)
}

// Whatever stands in DIR's own /dev is covered, and never followed.
func TestHostileDev(t *testing.T) {
	for _, to := range []string{"/etc/passwd", "..", "../../../../etc", "/proc/sys/kernel/core_pattern", "/dev"} {
		root := userRoot(t)
		for _, name := range []string{"null", "console", "pts", "ptmx", "shm", "mqueue", "tty", "fd", "zero"} {
			must(t, os.Symlink(to, root+"/dev/"+name))
		}
		got := inside(t, root, "echo gone > /dev/null; ls /dev; ls -d /dev/pts/ptmx /dev/shm/.; ls /dev/console 2>&1; true")
		equal(t, "/dev with links to "+to, got,
			"fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n/dev/pts/ptmx\n/dev/shm/.\nls: /dev/console: No such file or directory\n")
	}
}

// The parent never makes a file where one should be, nor follows a link to one: nothing but tests may use the calls that would.
func TestSourceMakesNoFiles(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	must(t, err)
	for _, source := range sources {
		text, err := os.ReadFile(source)
		must(t, err)
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		for _, call := range []string{"os.Create", "os.WriteFile", "os.OpenFile", "os.Mkdir", "os.RemoveAll", "os.Symlink"} {
			if bytes.Contains(text, []byte(call+"(")) {
				t.Errorf("%s uses %s", source, call)
			}
		}
	}
}
