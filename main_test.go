package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// These tests start real containers, as root, and look at them from inside and from outside. The barco that they start is the
// test binary itself: TestMain turns into main when it is asked to, and when it is the child of such a one.

const runAsBarco = "BARCO_TEST_RUN_AS_BARCO"

// tortureVariable says what is to happen to a barco; torment, which is for x86-64 alone, sees to it.
const tortureVariable = "BARCO_TEST_TORTURE"

var torment func(blow string)

// mainBegins is the argument of a system call that says so: TestMain closes a descriptor that there is not.
const mainBegins = 0x6261726b

func TestMain(m *testing.M) {
	if what := os.Getenv(probeVariable); what != "" {
		probe(what)
		return
	}
	if blow := os.Getenv(tortureVariable); blow != "" {
		torment(blow)
		return
	}
	if parent := os.Getenv(runAsBarco) != ""; parent || os.Args[0] == initName || os.Args[0] == reaperName {
		if situation := os.Getenv(situationVariable); situation != "" && parent {
			if err := situations[situation](); err != nil {
				fmt.Fprintf(os.Stderr, "cannot make the situation %q: %v\n", situation, err)
				os.Exit(1)
			}
		}
		unix.Close(mainBegins)
		main()
		return
	}
	if unix.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start real containers and need root: make test")
		os.Exit(1)
	}
	before := hostState()
	status := m.Run()
	if after := hostState(); status == 0 && after != before {
		fmt.Fprintf(os.Stderr, "FAIL: the tests left something behind\nbefore:\n%s\nafter:\n%s\n", before, after)
		status = 1
	}
	os.Exit(status)
}

// A result is how a barco ended.
type result struct {
	stdout, stderr string
	status         int
}

// command is a barco that has not been started.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), runAsBarco+"=1", "TERM=vt100")
	return cmd
}

// finish runs a command to its end.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func barco(t *testing.T, args ...string) result {
	t.Helper()
	return finish(t, command(args...))
}

// inside runs a shell script in a container and returns what it prints; the container must end with status 0.
func inside(t *testing.T, root, script string, args ...string) string {
	t.Helper()
	r := barco(t, append([]string{"-q", "-m", root, "-c", "/bin/sh", "-a", "-c", "-a", script}, args...)...)
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("%s\nin %s with %q ended with status %d and said:\n%s%s", script, root, args, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// busyboxRoot makes a small root filesystem: a static busybox and nothing else. It has no /proc, /sys and /dev.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is missing: make test installs it")
	}
	must(t, os.Mkdir(root+"/bin", 0o755))
	copyFile(t, busybox, root+"/bin/busybox")
	for _, name := range strings.Fields("sh cat ls id env true sleep mount chmod unshare hostname echo stat chown mkdir mv rm wc tail grep readlink stty cut od tr touch head dd ip kill ps tty") {
		must(t, os.Symlink("busybox", root+"/bin/"+name))
	}
	must(t, os.Chmod(root, 0o755))
	return root
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o755))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got\n%q\nwant\n%q", what, got, want)
	}
}

// statusField returns a field of a /proc/PID/status.
func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return name + " is missing"
}

// hostState is what barco must leave as it was: mounts, cgroups, files in /tmp, processes of its own.
func hostState() string {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	var cgroups, processes []string
	if top, err := findCgroup2("/proc/self/mountinfo"); err == nil && top != "" {
		filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && ours(path) {
				cgroups = append(cgroups, path)
			}
			return nil
		})
	}
	paths, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range paths { // all that has a container's uid and lives: a zombie waits for the host's process 1
		status, err := os.ReadFile(path)
		uid, _ := strconv.Atoi(strings.Split(statusField(string(status), "Uid"), " ")[0])
		if err == nil && uid >= hostIDs && uid < hostIDs+idCount && !strings.HasPrefix(statusField(string(status), "State"), "Z") && ours(path) {
			processes = append(processes, statusField(string(status), "Name"))
		}
	}
	tmp, _ := filepath.Glob(os.TempDir() + "/*")
	tmp = slices.DeleteFunc(tmp, func(path string) bool { // the tests' own, and go's
		return strings.HasPrefix(filepath.Base(path), "Test") || strings.HasPrefix(filepath.Base(path), "go-")
	})
	return fmt.Sprintf("%s\n%s\n%s\n%v", mountinfo, strings.Join(cgroups, "\n"), strings.Join(tmp, "\n"), processes)
}

// sameHost compares the host's state with what it was before, and shows only what is different.
func sameHost(t *testing.T, before string) {
	t.Helper()
	after := hostState()
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) {
			t.Errorf("new on the host: %s", line)
		}
	}
	for line := range strings.Lines(before) {
		if !strings.Contains(after, line) {
			t.Errorf("gone from the host: %s", line)
		}
	}
}

// ours says whether a cgroup, or a process, is of these tests' making, not of another barco's on the same machine.
func ours(path string) bool {
	var pid, n int
	if _, err := fmt.Sscanf(filepath.Base(path), cgroupPrefix+"%d-%d", &pid, &n); err == nil {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		self, _ := os.Readlink("/proc/self/exe")
		return err != nil || exe == self
	}
	group, _ := os.ReadFile(filepath.Dir(path) + "/cgroup")
	if i := bytes.Index(group, []byte("/"+cgroupPrefix)); i >= 0 {
		return ours(strings.SplitN(string(group[i+1:]), "\n", 2)[0])
	}
	return true
}

// roots are the two trees that the tests run in: the host's own, and a busybox.
func roots(t *testing.T) map[string]string {
	return map[string]string{"host": "/", "busybox": busyboxRoot(t)}
}

func TestSeenFromInside(t *testing.T) {
	for name, root := range roots(t) {
		for _, uid := range []string{"0", "1000", "65534"} {
			t.Run(name+"/"+uid, func(t *testing.T) {
				status := inside(t, root, "cat /proc/self/status", "-u", uid)
				four := strings.TrimSpace(strings.Repeat(uid+" ", 4))
				equal(t, "Uid", statusField(status, "Uid"), four)
				equal(t, "Gid", statusField(status, "Gid"), four)
				equal(t, "Groups", statusField(status, "Groups"), uid)
				equal(t, "Seccomp", statusField(status, "Seccomp"), "2")
				equal(t, "Seccomp_filters", statusField(status, "Seccomp_filters"), "1")
				equal(t, "NoNewPrivs", statusField(status, "NoNewPrivs"), "0")

				const ten, none = "00000000000425eb", "0000000000000000"
				held := ten
				if uid != "0" {
					held = none
				}
				equal(t, "CapBnd", statusField(status, "CapBnd"), ten)
				equal(t, "CapPrm", statusField(status, "CapPrm"), held)
				equal(t, "CapEff", statusField(status, "CapEff"), held)
				equal(t, "CapInh", statusField(status, "CapInh"), none)
				equal(t, "CapAmb", statusField(status, "CapAmb"), none)

				for _, file := range []string{"uid_map", "gid_map"} {
					got := inside(t, root, "cat /proc/self/"+file, "-u", uid)
					equal(t, file, strings.Join(strings.Fields(got), " "), "0 524288 65536")
				}
				equal(t, "host name", inside(t, root, "hostname", "-u", uid), "barcontainer\n")
				equal(t, "pid", inside(t, root, "echo $$", "-u", uid), "1\n")
				equal(t, "processes", inside(t, root, "cd /proc; echo [0-9]*", "-u", uid), "1\n")
				equal(t, "descriptors", inside(t, root, "ls /proc/$$/fd; true", "-u", uid), "0\n1\n2\n")
				equal(t, "cwd", inside(t, root, "pwd", "-u", uid), "/\n")
				equal(t, "umask", inside(t, root, "umask", "-u", uid), "0022\n")
				equal(t, "abstract sockets", inside(t, root, "cat /proc/net/unix | head -n 2", "-u", uid), "Num       RefCount Protocol Flags    Type St Inode Path\n")

				home := "/root"
				if uid != "0" {
					home = "/"
				}
				env := strings.Fields(inside(t, root, "cat /proc/$$/environ | tr '\\0' '\\n'", "-u", uid))
				env = slices.DeleteFunc(env, func(s string) bool { // these are the shell's own
					return strings.HasPrefix(s, "PWD=") || strings.HasPrefix(s, "SHLVL=") || strings.HasPrefix(s, "OLDPWD=") || strings.HasPrefix(s, "_=")
				})
				slices.Sort(env)
				equal(t, "environment", strings.Join(slices.Compact(env), " "),
					"HOME="+home+" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=vt100 container=barco")

				for line := range strings.Lines(inside(t, root, "cat /proc/self/cgroup", "-u", uid)) {
					if !strings.HasSuffix(line, ":/\n") {
						t.Errorf("/proc/self/cgroup shows the host's path: %q", line)
					}
				}
				interfaces := inside(t, root, "ls /sys/class/net; cat /sys/class/net/lo/flags", "-u", uid)
				equal(t, "interfaces", interfaces, "lo\n0x9\n")                                      // IFF_UP|IFF_LOOPBACK
				equal(t, "routes", inside(t, root, "cat /proc/net/route | wc -l", "-u", uid), "1\n") // the heading
			})
		}
	}
}

// mountsIn returns the mount points in a mountinfo, in order, with their options; covered ones last only once.
func mountsIn(mountinfo string) (points []string, options map[string]string) {
	options = map[string]string{}
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if _, again := options[fields[4]]; !again {
			points = append(points, fields[4])
		}
		options[fields[4]] = fields[5]
	}
	return points, options
}

func TestMounts(t *testing.T) {
	root := busyboxRoot(t)
	mountinfo := inside(t, root, "cat /proc/self/mountinfo")
	points, options := mountsIn(mountinfo)
	slices.Sort(points)

	var want []string
	for _, path := range slices.Concat(masked, readOnly) {
		if _, err := os.Stat(path); err == nil {
			want = append(want, path)
		}
	}
	want = append(want, "/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup")
	for _, d := range devices {
		want = append(want, "/dev/"+d.name)
	}
	slices.Sort(want)
	equal(t, "mount points", strings.Join(points, " "), strings.Join(want, " "))
	for path, option := range map[string]string{"/": "nodev", "/proc": "noexec", "/sys": "ro", "/sys/fs/cgroup": "ro", "/proc/sys": "ro", "/dev/shm": "nodev"} {
		if !slices.Contains(strings.Split(options[path], ","), option) {
			t.Errorf("%s is mounted %s, without %s", path, options[path], option)
		}
	}
	if strings.Contains(mountinfo, "shared:") || strings.Contains(mountinfo, "master:") {
		t.Errorf("a mount is not private:\n%s", mountinfo)
	}
	if _, err := os.Stat(root + "/proc"); err != nil {
		t.Error("the missing mount point /proc was not made")
	}
	equal(t, "the tree", inside(t, root, "echo /*"), "/bin /dev /proc /sys\n")
	equal(t, "/..", inside(t, root, "cd /../..; echo *"), "bin dev proc sys\n")
}

// What Docker masks in its default containers, and what it makes read-only (moby, daemon/pkg/oci and oci/defaults.go).
func TestMaskedLikeDocker(t *testing.T) {
	for _, path := range strings.Fields("/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware") {
		if !slices.Contains(masked, path) {
			t.Errorf("%s is not masked", path)
		}
	}
	for _, path := range strings.Fields("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger") {
		if !slices.Contains(readOnly, path) {
			t.Errorf("%s is not read-only", path)
		}
	}
	got := inside(t, busyboxRoot(t), "for d in /sys/devices/system/cpu/cpu*/thermal_throttle/*; do [ ! -e $d ] || echo $d; done")
	equal(t, "thermal_throttle", got, "")
}

func TestMaskedAndReadOnly(t *testing.T) {
	for name, root := range roots(t) {
		t.Run(name, func(t *testing.T) {
			for _, path := range masked {
				if got := inside(t, root, "[ ! -e "+path+" ] || cat "+path+" 2>/dev/null || ls -A "+path); got != "" {
					t.Errorf("%s shows %q", path, got)
				}
			}
			_, options := mountsIn(inside(t, root, "cat /proc/self/mountinfo"))
			for _, path := range readOnly {
				if _, err := os.Stat(path); err != nil {
					continue
				}
				if got := options[path]; !strings.HasPrefix(got, "ro,") {
					t.Errorf("%s is mounted %q", path, got)
				}
			}
			got := inside(t, root, "exec 2>&1; echo x > /proc/sys/kernel/hostname; echo x > /sys/kernel/uevent_helper; echo 1 > /sys/fs/cgroup/cgroup.freeze; true")
			if n := strings.Count(got, "Read-only file system"); n != 3 && n != 2 { // uevent_helper is not in every kernel
				t.Errorf("writing to /proc/sys, /sys and /sys/fs/cgroup: %q", got)
			}
		})
	}
}

func TestDev(t *testing.T) {
	root := busyboxRoot(t)
	for _, uid := range []string{"0", "1000"} {
		equal(t, "devices", inside(t, root, `
			echo gone > /dev/null && echo null
			head -c 3 /dev/zero | od -An -c
			echo x 2>/dev/null > /dev/full || echo full
			[ $(head -c 8 /dev/random | wc -c) = 8 ] && echo random
			[ $(head -c 8 /dev/urandom | wc -c) = 8 ] && echo urandom
			echo fd | cat /dev/stdin > /dev/stdout
			echo > /dev/shm/file && echo shm
			exec 5<>/dev/ptmx && ls /dev/pts && exec 5>&-
			ls /dev | while read x; do echo -n "$x "; done`, "-u", uid),
			"null\n  \\0  \\0  \\0\nfull\nrandom\nurandom\nfd\nshm\n0\nptmx\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ")
	}
}

// A device node in DIR opens nothing, whatever its mode.
func TestDeviceNodeInRoot(t *testing.T) {
	root := busyboxRoot(t)
	must(t, unix.Mknod(root+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	must(t, unix.Chmod(root+"/zero", 0o666))
	if got := inside(t, root, "head -c 1 /zero 2>&1; true"); !strings.Contains(got, "Permission denied") {
		t.Errorf("a device node in DIR could be opened: %q", got)
	}
}

// start starts a container that says "ready" when its command runs, and returns its standard input and output.
func start(t *testing.T, cmd *exec.Cmd) (stdin io.WriteCloser, stdout *bufio.Reader) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { // two different signals, as a second one of the same kind could get lost while the first is on its way
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Process.Signal(unix.SIGINT)
		cmd.Wait()
	})
	stdout = bufio.NewReader(out)
	if line, err := stdout.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the command is not ready: %q, %v", line, err)
	}
	return stdin, stdout
}

// childOf returns the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		data, _ := os.ReadFile(path)
		if fields := strings.Fields(string(data)); len(fields) == 1 {
			child, err := strconv.Atoi(fields[0])
			must(t, err)
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

func TestSeenFromOutside(t *testing.T) {
	root := busyboxRoot(t)
	cmd := command("-q", "-m", root, "-u", "7", "-c", "/bin/sh", "--", "-c", "echo ready; read x")
	stdin, _ := start(t, cmd)
	pid := childOf(t, cmd.Process.Pid)

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	equal(t, "uid outside", strings.Fields(statusField(string(status), "Uid"))[0], "524295")
	equal(t, "gid outside", strings.Fields(statusField(string(status), "Gid"))[0], "524295")
	equal(t, "groups outside", statusField(string(status), "Groups"), "524295")
	equal(t, "pids", statusField(string(status), "NSpid"), fmt.Sprintf("%d 1", pid))

	user, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	must(t, err)
	defer user.Close()
	for _, name := range []string{"user", "mnt", "pid", "ipc", "net", "uts", "cgroup"} {
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, name)
		theirs, err := os.Readlink(path)
		must(t, err)
		ours, err := os.Readlink("/proc/self/ns/" + name)
		must(t, err)
		if theirs == ours {
			t.Errorf("the %s namespace is the host's", name)
		}
		if name == "user" {
			continue
		}
		ns, err := os.Open(path)
		must(t, err)
		owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
		must(t, err)
		var a, b unix.Stat_t
		must(t, unix.Fstat(owner, &a))
		must(t, unix.Fstat(int(user.Fd()), &b))
		if a.Ino != b.Ino {
			t.Errorf("the %s namespace does not belong to the container's user namespace", name)
		}
		unix.Close(owner)
		ns.Close()
	}
	stdin.Close()
	cmd.Wait()
}

// Descriptors that barco was started with do not reach the command: one open directory of the host would be a way out.
func TestNoDescriptorLeaks(t *testing.T) {
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/ls", "-a", "/proc/self/fd")
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	cmd.ExtraFiles = []*os.File{dir, dir, dir}
	r := finish(t, cmd)
	equal(t, "descriptors", r.stdout, "0\n1\n2\n3\n") // 3 is the directory that ls reads
}

func TestStandardStreams(t *testing.T) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	cmd := command("-m", busyboxRoot(t), "-c", "/bin/cat")
	cmd.Stdin = bytes.NewReader(data)
	r := finish(t, cmd)
	if r.stdout != string(data) {
		t.Errorf("%d bytes became %d", len(data), len(r.stdout))
	}
	if !strings.Contains(r.stderr, "INFO  container.go:") {
		t.Errorf("the story is not on standard error: %q", r.stderr)
	}
	equal(t, "standard error of a quiet barco", barco(t, "-q", "-m", "/", "-c", "/bin/true").stderr, "")
}

func TestArguments(t *testing.T) {
	root := busyboxRoot(t)
	r := barco(t, "-q", "-m", root, "-c", "/bin/sh", "-a", "-c", "-a", `for x; do echo "<$x>"; done`, "-a", "zero", "-a", "-m", "--", "one two", "", "-q")
	equal(t, "arguments", r.stdout, "<-m>\n<one two>\n<>\n<-q>\n")
	r = barco(t, "-q", "-m", root, "-c", "/bin/cat", "-a", "/proc/self/cmdline")
	equal(t, "argv", r.stdout, "/bin/cat\x00/proc/self/cmdline\x00")
	long := strings.Repeat("x", 100_000) // several of them are more than one packet of the conversation
	r = barco(t, "-q", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ${#1} ${#2} ${#3} ${#4}", "sh", long, long, long, long)
	equal(t, "long arguments", r.stdout, "100000 100000 100000 100000\n")
	equal(t, "environment", inside(t, root, "echo $A-$B-$HOME", "--env", "A=1", "--env", "A=2", "--env", "B=x=y z", "--env", "HOME=/h"), "2-x=y z-/h\n")
	bytes := barco(t, "-q", "-m", root, "-c", "/bin/sh", "--env", "B=\xfe", "--", "-c", `printf %s "$1$B"`, "x", "\xff\xe9\x01")
	equal(t, "bytes that are not UTF-8", bytes.stdout, "\xff\xe9\x01\xfe")
	equal(t, "workdir", inside(t, root, "pwd", "--workdir", "/proc/sys"), "/proc/sys\n")
	equal(t, "host name", inside(t, root, "hostname", "--hostname", "crab-1.example"), "crab-1.example\n")
	equal(t, "one more capability", statusField(inside(t, root, "cat /proc/self/status", "--cap-add", "CAP_NET_ADMIN", "--cap-add", "mknod"), "CapEff"), fmt.Sprintf("%016x", 0x425eb|1<<cap.NET_ADMIN|1<<cap.MKNOD))
}

func TestExitStatus(t *testing.T) {
	root := busyboxRoot(t)
	for _, status := range []int{0, 1, 7, 125, 255} {
		if r := barco(t, "-q", "-m", root, "-c", "/bin/sh", "--", "-c", fmt.Sprint("exit ", status)); r.status != status {
			t.Errorf("exit %d: got %d", status, r.status)
		}
	}
	cmd := command("-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start(t, cmd)
	must(t, unix.Kill(childOf(t, cmd.Process.Pid), unix.SIGKILL))
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+9 || !strings.Contains(stderr.String(), "killed by SIGKILL") {
		t.Errorf("killed from outside: status %d, and it said %s", got, stderr.String())
	}
}

func TestSignals(t *testing.T) {
	root := busyboxRoot(t)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "trap 'echo got it; exit 9' "+strconv.Itoa(int(signal))+"; echo ready; read x")
			_, stdout := start(t, cmd)
			must(t, cmd.Process.Signal(signal))
			rest, _ := io.ReadAll(stdout)
			cmd.Wait()
			equal(t, "the command said", string(rest), "got it\n")
			if status := cmd.ProcessState.ExitCode(); status != 9 {
				t.Errorf("status %d", status)
			}

			cmd = command("-m", root, "-c", "/bin/sh", "--", "-c", "trap 'echo got it' "+strconv.Itoa(int(signal))+"; echo ready; while :; do read x; done")
			_, stdout = start(t, cmd)
			must(t, cmd.Process.Signal(signal))
			if line, _ := stdout.ReadString('\n'); line != "got it\n" {
				t.Fatalf("the command said %q", line)
			}
			must(t, cmd.Process.Signal(signal))
			cmd.Wait()
			if status := cmd.ProcessState.ExitCode(); status != 128+int(unix.SIGKILL) {
				t.Errorf("after the second %v: status %d", signal, status)
			}
		})
	}
}

// kill -9 of barco ends the container, and the next barco removes its cgroup.
func TestKilledBarco(t *testing.T) {
	t.Run("the command as process 1", func(t *testing.T) { killedBarco(t) })
	t.Run("with --init", func(t *testing.T) { needStatic(t); killedBarco(t, "--init") })
}

func killedBarco(t *testing.T, args ...string) {
	root := busyboxRoot(t)
	cmd := command(append(args, "-q", "-m", root, "-u", "1000", "-c", "/bin/sh", "--", "-c", "sleep 1000 & echo ready; sleep 1000")...)
	start(t, cmd)
	pid := childOf(t, cmd.Process.Pid)
	pidfd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(pidfd)
	must(t, cmd.Process.Kill())
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000)
	}
	if n != 1 {
		t.Fatalf("the container outlived barco: %v", err)
	}
	cmd.Wait()
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	left := fmt.Sprintf("%s/%s%d-0", top, cgroupPrefix, cmd.Process.Pid)
	if _, err := os.Stat(left); err != nil {
		t.Fatalf("the killed barco's cgroup should still be there: %v", err)
	}
	barco(t, "-q", "-m", root, "-c", "/bin/true")
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next barco has not removed %s: %v", left, err)
	}
}

// Another barco's cgroup is not touched while that one lives.
func TestCgroupOfTheLivingStays(t *testing.T) {
	root := busyboxRoot(t)
	cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; echo $x")
	stdin, stdout := start(t, cmd)
	for range 3 {
		barco(t, "-q", "-m", root, "-c", "/bin/true")
	}
	fmt.Fprintln(stdin, "alive")
	if line, _ := stdout.ReadString('\n'); line != "alive\n" {
		t.Errorf("it said %q", line)
	}
	cmd.Wait()
}

func TestBadCommandLine(t *testing.T) {
	root := busyboxRoot(t)
	file := t.TempDir() + "/file"
	must(t, os.WriteFile(file, nil, 0o644))
	for _, test := range []struct {
		args string // a | between arguments
		want string
	}{
		{"", "-m, --mnt is missing"},
		{"-m|/", "-c, --cmd is missing: it takes the command to run, such as -c /bin/sh"},
		{"-c|/bin/sh", "-m, --mnt is missing: it takes the directory that becomes /, such as -m /"},
		{"-m|/|-c|sh", `-c, --cmd "sh": takes an absolute path inside the container, such as /bin/sh`},
		{"-m|/|-c", "-c, --cmd takes a value"},
		{"-u", "-u, --uid takes a user id, a whole number from 0 to 65535"},
		{"-m|/dev|-c|/bin/sh", "is the kernel's, and no place for a root filesystem"},
		{"-m|/|-c|/bin/ls|-l", "unknown flag -l"},
		{"-m|/|-c|/bin/ls|/etc", `"/etc" is not a flag: an argument for the command goes after -a, or after --`},
		{"--frobnicate", "unknown flag --frobnicate"},
		{"-u|-1", `-u, --uid "-1": takes a user id, a whole number from 0 to 65535`},
		{"-u|root", `-u, --uid "root": takes a user id`},
		{"-u|65536", `-u, --uid "65536": takes a user id`},
		{"-u|1.5", `-u, --uid "1.5": takes a user id`},
		{"--memory|1.5X", `--memory "1.5X": takes a size such as 512m or 1G`},
		{"--memory|0", `--memory "0": takes a size`},
		{"--memory|-1", `--memory "-1": takes a size`},
		{"--memory|1GG", `--memory "1GG": takes a size`},
		{"--memory|G", `--memory "G": takes a size`},
		{"--memory|99999999999999T", `--memory "99999999999999T": takes a size`},
		{"--pids|0", `--pids "0": takes a whole number from 1 to 4194304, or max`},
		{"--cpu-weight|10001", `--cpu-weight "10001": takes a whole number from 1 to 10000`},
		{"--cpu-weight|max", `--cpu-weight "max": takes`},
		{"--hostname|", `--hostname "": takes a host name of 1 to 64`},
		{"--hostname|a b", `--hostname "a b": takes a host name`},
		{"--hostname|" + strings.Repeat("h", 65), "takes a host name of 1 to 64"},
		{"--env|NOVALUE", `--env "NOVALUE": takes NAME=VALUE`},
		{"--env|=x", `--env "=x": takes NAME=VALUE`},
		{"--workdir|tmp", `--workdir "tmp": takes an absolute path inside the container`},
		{"--cap-add|CAP_NONSENSE", `--cap-add "CAP_NONSENSE": takes a capability`},
		{"--skip|everything", `--skip "everything": takes one of seccomp:mount, `},
		{"-v|-q|-m|/|-c|/bin/sh", "-v, --verbose and -q, --quiet exclude each other"},
		{"-m||-c|/bin/sh", "-m, --mnt is missing"},
		{"-q=maybe", `-q, --quiet "maybe": takes true or false`},
		{"-t|-m|/|-c|/bin/sh", "-t, --tty: standard input and output are not a terminal"},
		{"-u|1000|--cap-add|NET_ADMIN|-m|/|-c|/bin/sh", "--cap-add and -u 1000 exclude each other"},
		{"--workdir|../../..|-m|/|-c|/bin/sh", `--workdir "../../..": takes an absolute path inside the container`},
		{"--skip|pid|--skip|cgroup|-m|/|-c|/bin/sh|-q", "--skip pid and --skip cgroup exclude each other"},
		{"-m|/no/such/dir|-c|/bin/sh", `-m, --mnt "/no/such/dir": takes a directory: no such file or directory (ENOENT)`},
		{"-m|" + file + "|-c|/bin/sh", `takes a directory: not a directory (ENOTDIR)`},
		{"-m|" + root + "/bin/sh|-c|/bin/sh", `takes a directory: not a directory (ENOTDIR)`},
	} {
		t.Run(test.args, func(t *testing.T) {
			var args []string
			if test.args != "" {
				args = strings.Split(test.args, "|")
			}
			r := barco(t, args...)
			if r.status != statusBarcoFailed || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "barco: ") || !strings.Contains(r.stderr, test.want) {
				t.Errorf("status %d, and it said\n%s%swant status 125 and one line with\n%s", r.status, r.stdout, r.stderr, test.want)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	r := barco(t, "--help")
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.status != 0 || r.stderr != "" || len(lines) > 24 {
		t.Errorf("status %d, %d lines, %q", r.status, len(lines), r.stderr)
	}
	for _, line := range lines {
		if len(line) > 90 {
			t.Errorf("this line of --help is too long: %s", line)
		}
	}
	for _, want := range []string{"--mnt", "--cmd", "--arg", "--uid", "--hostname", "--env", "--workdir", "--memory", "--cpu-weight", "--pids", "--cap-add", "--skip", "--verbose", "--quiet", "--tty", "--check", "--help", "--version", "Example: sudo barco "} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("--help does not have %s", want)
		}
	}
	readme, err := os.ReadFile("README.md")
	if indented := "    " + strings.ReplaceAll(strings.TrimSpace(r.stdout), "\n", "\n    "); err == nil && !strings.Contains(string(readme), strings.ReplaceAll(indented, "    \n", "\n")) {
		t.Error("the README shows another --help")
	}
	if r = barco(t, "--version"); r.status != 0 || r.stdout != "barco "+version+"\n" {
		t.Errorf("--version: %+v", r)
	}
}

// Directories that are hard to write down are no different from others.
func TestDirectories(t *testing.T) {
	root := busyboxRoot(t)
	parent := filepath.Dir(root)
	spaced := parent + "/with spaces, und Umlaut ü"
	must(t, os.Rename(root, spaced))
	must(t, os.Symlink(spaced, parent+"/link"))
	must(t, os.Symlink(spaced+"/bin", parent+"/deep")) // deep/.. is spaced, not parent
	for _, dir := range []string{spaced, parent + "/link", parent + "/link/../with spaces, und Umlaut ü/bin/..", "with spaces, und Umlaut ü", "./link", spaced + "///", "deep/..", parent + "/deep/.."} {
		cmd := command("-q", "-m", dir, "-c", "/bin/sh", "--", "-c", "echo /bin/busybox")
		cmd.Dir = parent
		if r := finish(t, cmd); r.stdout != "/bin/busybox\n" {
			t.Errorf("-m %q: %+v", dir, r)
		}
	}
}

// What cannot be executed gets a sentence that says why, and the status that `docker run` would give.
func TestNotExecutable(t *testing.T) {
	root := busyboxRoot(t)
	script := func(name, text string, mode os.FileMode) {
		must(t, os.WriteFile(root+"/"+name, []byte(text), mode))
	}
	script("script", "#!/no/such/interpreter -x\n", 0o755)
	script("dos", "#!/bin/sh\r\n", 0o755)
	script("text", "hello\n", 0o755)
	script("plain", "#!/bin/sh\n", 0o644)
	script("rootonly", "#!/bin/sh\n", 0o700)
	must(t, os.Mkdir(root+"/closed", 0o700))
	script("closed/program", "#!/bin/sh\n", 0o755)
	must(t, os.Symlink("/nowhere", root+"/dangling"))
	busybox, err := os.ReadFile(root + "/bin/busybox")
	must(t, err)
	foreign, name := byte(0xb7), "EM_AARCH64" // e_machine is at byte 18
	if runtime.GOARCH == "arm64" {
		foreign, name = 0x3e, "EM_X86_64"
	}
	other := slices.Clone(busybox)
	other[18] = foreign
	must(t, os.WriteFile(root+"/foreign", other, 0o755))
	must(t, os.WriteFile(root+"/truncated", busybox[:30], 0o755))
	must(t, os.WriteFile(root+"/dynamic", dynamicProgram(busybox), 0o755))

	for _, test := range []struct {
		command string
		status  int
		want    string
	}{
		{"/no/such", 127, "/no/such does not exist inside " + root},
		{"/bin/sh/x", 127, "/bin/sh/x does not exist inside"},
		{"/dangling", 127, "/dangling is a symbolic link to \"/nowhere\", which does not exist inside"},
		{"/bin", 126, "/bin is a directory"},
		{"/dev/null", 126, "/dev/null is not a regular file"},
		{"/plain", 126, "/plain is not executable: chmod +x it"},
		{"/rootonly", 126, "/rootonly may not be executed by uid 0 inside, which is uid 524288 on the host"},
		{"/closed/program", 126, "may not enter a directory on the way to /closed/program"},
		{"/dos", 126, `/dos is a script for "/bin/sh\r", which does not exist inside`},
		{"/script", 126, `/script is a script for "/no/such/interpreter", which does not exist inside`},
		{"/text", 126, "/text is neither an ELF program nor a script"},
		{"/foreign", 126, "/foreign is a program for another architecture: it is for " + name},
		{"/truncated", 126, "/truncated is neither an ELF program nor a script"},
		{"/dynamic", 126, "/dynamic needs the loader \"/lib/no-such-loader.so\", which does not exist inside"},
	} {
		r := barco(t, "-q", "-m", root, "-c", test.command)
		if r.status != test.status || r.stdout != "" || !strings.Contains(r.stderr, test.want) || !strings.HasPrefix(r.stderr, "barco: execve: execve(\""+test.command+"\"): ") {
			t.Errorf("%s: status %d, and it said\n%s%swant status %d and\n%s", test.command, r.status, r.stdout, r.stderr, test.status, test.want)
		}
	}
	if left, _ := filepath.Glob(root + "/[psd][rye][ocsv]*"); left != nil {
		t.Errorf("commands that never ran left %v", left)
	}
	for _, test := range []struct{ dir, want string }{
		{"/no/such", "--workdir does not exist inside DIR"},
		{"/bin/sh", "--workdir is not a directory"},
		{"/closed", "uid 0 inside is uid 524288 on the host, who may not enter a directory on the way to /closed"},
	} {
		if r := barco(t, "-q", "-m", root, "-c", "/bin/sh", "--workdir", test.dir); r.status != statusBarcoFailed || !strings.Contains(r.stderr, test.want) {
			t.Errorf("--workdir %s: %+v", test.dir, r)
		}
	}
}

// dynamicProgram turns the ELF header of a static program into one with a PT_INTERP for a loader that is nowhere.
func dynamicProgram(static []byte) []byte {
	const loader = "/lib/no-such-loader.so\x00"
	program := slices.Clone(static[:64]) // the header; one program header and the path follow it
	put := func(offset, size int, value uint64) {
		for i := range size {
			program[offset+i] = byte(value >> (8 * i))
		}
	}
	put(32, 8, 64) // e_phoff
	put(40, 8, 0)  // e_shoff
	put(56, 2, 1)  // e_phnum
	put(60, 2, 0)  // e_shnum
	put(62, 2, 0)  // e_shstrndx
	program = append(program, make([]byte, 56)...)
	put(64, 4, 3)                   // p_type: PT_INTERP
	put(68, 4, 4)                   // p_flags
	put(72, 8, 64+56)               // p_offset
	put(96, 8, uint64(len(loader))) // p_filesz
	put(104, 8, uint64(len(loader)))
	return append(program, loader...)
}

// A DIR that was made to mislead is refused, with a sentence.
func TestHostileRoots(t *testing.T) {
	for _, mountPoint := range []string{"proc", "sys", "dev"} {
		for name, make := range map[string]func(path string) error{
			"is a symbolic link":     func(path string) error { return os.Symlink("/etc", path) },
			"is not a directory":     func(path string) error { return os.WriteFile(path, nil, 0o755) },
			"is a symbolic link, up": func(path string) error { return os.Symlink("../../..", path) },
		} {
			root := busyboxRoot(t)
			must(t, make(root+"/"+mountPoint))
			r := barco(t, "-q", "-m", root, "-c", "/bin/true")
			want, _, _ := strings.Cut(name, ", ")
			if r.status != statusBarcoFailed || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, `"`+mountPoint+`"`) {
				t.Errorf("/%s %s: %+v", mountPoint, name, r)
			}
		}
	}
	closed := busyboxRoot(t)
	must(t, os.Chmod(closed, 0))
	if r := barco(t, "-q", "-m", closed, "-c", "/bin/true"); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "the container may not enter DIR") {
		t.Errorf("a DIR that nobody may enter: %+v", r)
	}
	must(t, os.Chmod(closed, 0o700))
	if r := barco(t, "-q", "-m", closed, "-c", "/bin/true"); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "uid 0 inside is uid 524288 on the host, who may not enter a directory on the way to /:") {
		t.Errorf("a DIR that only root may enter: %+v", r)
	}
}

// Each layer can be left out, is then named loudly, and is really not there.
func TestSkip(t *testing.T) {
	root := busyboxRoot(t)
	hostname, err := os.Hostname()
	must(t, err)
	link := func(name string) string {
		s, err := os.Readlink("/proc/self/ns/" + name)
		must(t, err)
		return s + "\n"
	}
	for _, test := range []struct{ layer, script, want string }{
		{"userns", "cat /proc/self/uid_map | tr -s ' '", " 0 0 4294967295\n"},
		{"mounts", "ls -d /etc/passwd", "/etc/passwd\n"},
		{"pid", "[ $$ != 1 ] && ls -d /proc/" + strconv.Itoa(os.Getpid()), "/proc/" + strconv.Itoa(os.Getpid()) + "\n"},
		{"ipc", "readlink /proc/self/ns/ipc", link("ipc")},
		{"net", "readlink /proc/self/ns/net", link("net")},
		{"uts", "hostname", hostname + "\n"},
		{"cgroup", "readlink /proc/self/ns/cgroup", link("cgroup")},
		{"caps", "grep CapBnd /proc/self/status", fmt.Sprintf("CapBnd:\t%016x\n", uint64(1)<<cap.MaxBits()-1)},
		{"seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"},
		{"seccomp:setid", "touch /tmp/x && chmod u+s /tmp/x && echo done", "done\n"},
	} {
		t.Run(test.layer, func(t *testing.T) {
			root := root
			if test.layer == "seccomp:setid" {
				root = busyboxRoot(t)
				must(t, os.Mkdir(root+"/tmp", 0o777))
				must(t, os.Chmod(root+"/tmp", 0o777))
			}
			r := barco(t, "-m", root, "-c", "/bin/busybox", "--skip", test.layer, "--", "sh", "-c", test.script)
			if test.layer == "mounts" {
				r = barco(t, "-m", root, "-c", "/bin/sh", "--skip", test.layer, "--", "-c", test.script)
			}
			equal(t, "inside", r.stdout, test.want)
			if r.status != 0 || !strings.Contains(r.stderr, "LEFT OUT") {
				t.Errorf("status %d: %s", r.status, r.stderr)
			}
		})
	}
}

// Every rule of the denylist has a reason, and the filter can be built whole and without each group.
func TestDenylist(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range denylist() {
		if len(g.calls) == 0 || g.errno != unix.EPERM && g.errno != unix.ENOSYS {
			t.Errorf("group %s: %d calls, %v", g.name, len(g.calls), g.errno)
		}
		for _, c := range g.calls {
			if c.why == "" || seen[c.name] {
				t.Errorf("%s: no reason, or twice in the list", c.name)
			}
			seen[c.name] = true
		}
	}
	libseccomp.SetAPI(5)
	logLevel = levelError
	defer func() { logLevel = levelInfo }()
	for _, skip := range append([]string{""}, seccompGroups()...) {
		filter, rules, err := buildFilter([]string{skip})
		if err != nil || rules == 0 {
			t.Fatalf("without %q: %d rules, %v", skip, rules, err)
		}
		filter.Release()
	}
}

func TestKeptCapabilities(t *testing.T) {
	for _, k := range kept {
		if k.why == "" {
			t.Errorf("%v is kept without a reason", k.value)
		}
	}
	if got := keptCaps(&Config{}); got != 0x425eb {
		t.Errorf("kept: %#x", got)
	}
}

// hasController says whether this machine's cgroup v2 can enforce a limit.
func hasController(t *testing.T, name string) bool {
	t.Helper()
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	return top != "" && slices.Contains(readWords(top+"/cgroup.controllers"), name)
}

// A limit holds, or the start is refused; barco's own default gives way where it must, with a warning.
func TestLimits(t *testing.T) {
	root := busyboxRoot(t)
	for _, test := range []struct{ controller, flag, value, file, want, byDefault string }{
		{"memory", "--memory", "64m", "memory.max", "67108864\n", "1073741824\n"},
		{"cpu", "--cpu-weight", "77", "cpu.weight", "77\n", "256\n"},
		{"pids", "--pids", "9", "pids.max", "9\n", "64\n"},
	} {
		t.Run(test.controller, func(t *testing.T) {
			args := []string{"-m", root, "-c", "/bin/cat", "-a", "/sys/fs/cgroup/" + test.file}
			byDefault, asked := barco(t, args...), barco(t, append(args, test.flag, test.value)...)
			if hasController(t, test.controller) {
				equal(t, "by default", byDefault.stdout, test.byDefault)
				equal(t, "asked for", asked.stdout, test.want)
				return
			}
			warning := regexp.MustCompile(`(?m)^\S+ WARN .*NO LIMIT on .*` + test.controller + `.*: .*$`)
			if len(warning.FindAllString(byDefault.stderr, -1)) != 1 || barco(t, "-q", "-m", root, "-c", "/bin/true").status != 0 {
				t.Errorf("the default did not give way with one warning: %+v", byDefault)
			}
			if asked.status != statusBarcoFailed || !strings.Contains(asked.stderr, "barco: cgroup: "+test.file+" cannot be enforced: ") {
				t.Errorf("the limit cannot be enforced here, and still: %+v", asked)
			}
			if r := barco(t, "-m", root, "-c", "/bin/true", "--skip", "cgroup"); r.status != 0 || !strings.Contains(r.stderr, "LEFT OUT, as --skip asks: cgroup. Now nothing limits") {
				t.Errorf("--skip cgroup: %+v", r)
			}
		})
	}
}

func TestParseMemory(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "4096": 4096, "512k": 512 << 10, "512m": 512 << 20, "1G": 1 << 30, "2t": 2 << 40, "max": math.MaxInt64} {
		if got, err := parseMemory(text); err != nil || got != (limit{want, true}) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

// A hint that nobody can reach is as bad as none: every row is found by the failure it is for.
func TestHints(t *testing.T) {
	for _, h := range hints {
		failure := &Failure{Call: h.call + "(...)", Errno: h.errno}
		if failure.hint() != h.text {
			t.Errorf("%s %s: another row is taken first", h.call, unix.ErrnoName(h.errno))
		}
	}
}

// The user namespace cannot be made: no container, and a sentence that names the setting. In particular no container without it.
func TestNoUserNamespaces(t *testing.T) {
	// In a user namespace of its own, barco finds the limit that is set there.
	cmd := command("-q", "-m", "/", "-c", "/bin/echo", "-a", "I run")
	cmd.Args = append([]string{"unshare", "-U", "-r", "sh", "-c", `echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	var err error
	cmd.Path, err = exec.LookPath("unshare")
	must(t, err)
	if cmd.Args[7], err = os.Executable(); err != nil { // what /proc/self/exe is here
		t.Fatal(err)
	}
	r := finish(t, cmd)
	if r.status != statusBarcoFailed || r.stdout != "" || !strings.Contains(r.stderr, "barco: clone: clone(CLONE_NEWUSER|") || !strings.Contains(r.stderr, "max_user_namespaces") {
		t.Errorf("%+v", r)
	}
}

// Messages longer than a packet arrive whole, and the other side's end is end of file.
func TestConversation(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ours, theirs := socket(pair[0]), socket(pair[1])
	text := strings.Repeat("0123456789", 100_000)
	go func() {
		ours.send(messageLog, text)
		ours.send(messageTerminal, nil, 0)
		unix.Close(int(ours))
	}()
	got, err := theirs.receive()
	if err != nil || got.kind != messageLog || len(got.payload) != len(text)+2 || got.descriptor != -1 {
		t.Errorf("%c, %d bytes, %v", got.kind, len(got.payload), err)
	}
	if got, err = theirs.receive(); err != nil || got.kind != messageTerminal || got.descriptor < 0 {
		t.Errorf("%+v, %v", got, err)
	}
	unix.Close(got.descriptor)
	if got, err = theirs.receive(); err != nil || got.kind != 0 {
		t.Errorf("after the end: %+v, %v", got, err)
	}
	unix.Close(int(theirs))
}

func TestFindCgroup2(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"22 27 0:21 / /proc rw,relatime - proc proc rw\n":                                                                                     "",
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n":                                                              "/sys/fs/cgroup/unified",
		"1 1 0:1 / /a rw shared:7 - tmpfs cgroup2 rw\n35 24 0:30 / /sys/fs/my\\040cgroup rw shared:9 master:3 - cgroup2 none rw,nsdelegate\n": "/sys/fs/my cgroup",
		"": "", "garbage\n": "", " - cgroup2 \n": "",
	} {
		path := dir + "/mountinfo"
		must(t, os.WriteFile(path, []byte(text), 0o644))
		if got, err := findCgroup2(path); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}
