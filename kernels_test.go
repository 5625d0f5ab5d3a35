package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// barco on machines that are not as it would like them: without cgroup v2, without root, inside another container. Each is made
// here from what the kernel offers, in the process that is to become barco and before it does.

const situationVariable = "BARCO_TEST_SITUATION"

// belowVariable is where to mount the one of "a tmpfs below DIR".
const belowVariable = "BARCO_TEST_BELOW"

// situations change the process, and its private mounts, to be like one on such a machine. TestMain runs one when it is asked to.
var situations = map[string]func() error{
	"clone3 refused": func() error { return refuseCall("clone3", unix.ENOSYS) },
	"no user namespaces": func() error {
		return errors.Join(refuseCall("clone3", unix.ENOSYS), refuseCall("clone", unix.EPERM, libseccomp.ScmpCondition{Argument: 0, Op: libseccomp.CompareMaskedEqual, Operand1: unix.CLONE_NEWUSER, Operand2: unix.CLONE_NEWUSER}))
	},
	"masked /proc": func() error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("mask", "/proc/sys", "tmpfs", 0, ""))
	},
	"read-only cgroupfs": func() error {
		top, err := findCgroup2("/proc/self/mountinfo")
		return errors.Join(err, unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	},
	"no cgroup v2": func() error {
		top, err := findCgroup2("/proc/self/mountinfo")
		return errors.Join(err, unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Unmount(top, unix.MNT_DETACH))
	},
	"SIGALRM blocked": func() error {
		return unix.PthreadSigmask(unix.SIG_BLOCK, &unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGALRM - 1)}}, nil)
	},
	"no real /dev/null": func() error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/dev/zero", "/dev/null", "", unix.MS_BIND, ""))
	},
	"a tmpfs below DIR": func() error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("below", os.Getenv(belowVariable), "tmpfs", 0, "mode=1777"))
	},
	"/ below DIR": func() error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/", os.Getenv(belowVariable), "", unix.MS_BIND, ""))
	},
	"processes above": func() error { // as in a container that sees its own cgroup as the top of the tree
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH), unix.Mount("none", "/sys/fs/cgroup", "cgroup2", 0, ""))
	},
}

// refuseCall has the kernel refuse a system call to this thread and what it starts, as an outer container's filter would.
func refuseCall(name string, errno unix.Errno, when ...libseccomp.ScmpCondition) error {
	filter, err := libseccomp.NewFilter(libseccomp.ActAllow)
	if err != nil {
		return err
	}
	number, err := libseccomp.GetSyscallFromName(name)
	if err != nil {
		return err
	}
	refusal := libseccomp.ActErrno.SetReturnCode(int16(errno))
	if when == nil {
		err = filter.AddRule(number, refusal)
	} else {
		err = filter.AddRuleConditional(number, refusal, when)
	}
	return errors.Join(err, filter.SetNoNewPrivsBit(false), filter.Load())
}

// in returns a barco that finds itself in a situation.
func inSituation(situation string, args ...string) *exec.Cmd {
	cmd := command(args...)
	cmd.Env = append(cmd.Env, situationVariable+"="+situation)
	return cmd
}

// enforced says whether this machine can enforce a limit. Where it cannot, asking for it must be refused.
func enforced(t *testing.T, controller, flag, value string) bool {
	t.Helper()
	if hasController(t, controller) {
		return true
	}
	if r := barco(t, flag, value, "-q", "-m", "/", "-c", "/bin/true"); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "cannot be enforced") {
		t.Errorf("no %s controller here, and still: %+v", controller, r)
	}
	return false
}

func TestOutOfMemory(t *testing.T) {
	if !enforced(t, "memory", "--memory", "64m") {
		t.Log("not here: this machine cannot enforce it, the VM can")
		return
	}
	r := barco(t, "-q", "--memory", "64m", "-m", busyboxRoot(t), "-c", "/bin/busybox", "--", "sh", "-c", "echo start; head -c 500m /dev/zero | busybox tail -c 400m; echo survived")
	if r.status != 137 || r.stdout != "start\n" || !regexp.MustCompile(`(?m)^barco: killed by the kernel: memory\.max=64M reached \(peak \d+[KM]?\)$`).MatchString(r.stderr) {
		t.Errorf("%+v", r)
	}
}

func TestForkBomb(t *testing.T) {
	if !enforced(t, "pids", "--pids", "20") {
		t.Log("not here: this machine cannot enforce it, the VM can")
		return
	}
	r := barco(t, "--pids", "20", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c",
		"(i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done) 2>/dev/null; read n < /sys/fs/cgroup/pids.current; echo $n; read n < /sys/fs/cgroup/pids.max; echo $n")
	if r.status != 0 || r.stdout != "20\n20\n" && r.stdout != "19\n20\n" || !regexp.MustCompile(`WARN .*pids\.max=20 was reached: \d+ times a process or thread could not be made`).MatchString(r.stderr) {
		t.Errorf("%+v", r)
	}
	for _, pids := range []string{"1", "2", "3"} { // barco itself has more threads than that
		if r := barco(t, "-q", "--pids", pids, "-m", busyboxRoot(t), "-c", "/bin/echo", "-a", "enough"); r.stdout != "enough\n" {
			t.Errorf("--pids %s: %+v", pids, r)
		}
	}
}

// Two containers with weights 100 and 400 share one busy processor about 1 to 4.
func TestCPUWeight(t *testing.T) {
	if !enforced(t, "cpu", "--cpu-weight", "400") {
		t.Log("not here: this machine cannot enforce it, the VM can")
		return
	}
	runtime.LockOSThread() // processor affinity is a thread's, and its children inherit it
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	one.Set(0)
	must(t, unix.SchedSetaffinity(0, &one))
	root := busyboxRoot(t)
	light := command("-q", "--cpu-weight", "100", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; while :; do :; done")
	heavy := command("-q", "--cpu-weight", "400", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; cat /sys/fs/cgroup/cpu.stat; read x")
	lightIn, _ := start(t, light)
	heavyIn, heavyOut := start(t, heavy)
	must(t, unix.SchedSetaffinity(0, &before))
	fmt.Fprintln(lightIn, "go")
	fmt.Fprintln(heavyIn, "go")
	usage := func(text string) float64 {
		n, err := strconv.ParseFloat(regexp.MustCompile(`usage_usec (\d+)`).FindStringSubmatch(text)[1], 64)
		must(t, err)
		return n
	}
	var stat string
	for !strings.Contains(stat, "system_usec") {
		line, err := heavyOut.ReadString('\n')
		must(t, err)
		stat += line
	}
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	data, err := os.ReadFile(fmt.Sprintf("%s/%s%d-0/cpu.stat", top, cgroupPrefix, light.Process.Pid))
	must(t, err)
	if ratio := usage(stat) / usage(string(data)); ratio < 2.5 || ratio > 6 {
		t.Errorf("the heavy one had %.1f times the light one's time", ratio)
	} else {
		t.Logf("the heavy one had %.1f times the light one's time", ratio)
	}
}

func TestFiftyAtOnce(t *testing.T) {
	root := busyboxRoot(t)
	before := hostState()
	var running []*exec.Cmd
	var inputs []io.WriteCloser
	for range 50 {
		cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; exit $x")
		stdin, _ := start(t, cmd)
		running, inputs = append(running, cmd), append(inputs, stdin)
	}
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	for _, cmd := range running {
		if _, err := os.Stat(fmt.Sprintf("%s/%s%d-0", top, cgroupPrefix, cmd.Process.Pid)); err != nil {
			t.Error(err)
		}
	}
	for i, stdin := range inputs {
		fmt.Fprintln(stdin, i)
	}
	for i, cmd := range running {
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != i {
			t.Errorf("container %d: status %d", i, got)
		}
	}
	sameHost(t, before)
}

// kill -9 of barco at any moment of its life: nothing survives, and the next barco clears away what it could not.
func TestKilledAtRandom(t *testing.T) {
	root := busyboxRoot(t)
	before := hostState()
	begin := time.Now()
	barco(t, "-q", "-m", root, "-c", "/bin/true")
	whole := time.Since(begin)
	for range 50 {
		cmd := command("-q", "-m", root, "-c", "/bin/sleep", "-a", "1000")
		reader, writer, err := os.Pipe()
		must(t, err)
		cmd.Stdout = writer
		must(t, cmd.Start())
		writer.Close()
		kill := time.AfterFunc(rand.N(2*whole), func() { cmd.Process.Kill() })
		done := make(chan struct{})
		go func() { io.Copy(io.Discard, reader); close(done) }() // ends when the last process that has the pipe open is gone
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("a container outlived its barco")
		}
		cmd.Wait()
		kill.Stop()
		reader.Close()
	}
	barco(t, "-q", "-m", root, "-c", "/bin/true")
	sameHost(t, before)
}

func TestSituations(t *testing.T) {
	root := busyboxRoot(t)
	v2 := hasController(t, "memory")
	for _, test := range []struct {
		situation string
		status    int
		want      string // on standard error
	}{
		{"no user namespaces", 125, "barco: clone: clone(CLONE_NEWUSER|CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWNET|CLONE_NEWUTS): operation not permitted (EPERM)\nbarco: hint: making namespaces needs CAP_SYS_ADMIN and a seccomp filter that lets it through; inside a container, that one likely needs --privileged\nbarco: run barco --check"},
		{"masked /proc", 125, `mount too revealing`},
		{"no real /dev/null", 125, "the host's /dev/null is not the character device 1:3"},
		{"read-only cgroupfs", 0, "is read-only here; in Docker, docker run --privileged --cgroupns=host"},
		{"no cgroup v2", 0, map[bool]string{true: "no cgroup v2 is mounted here", false: "this host has its controllers on cgroup v1, and no cgroup v2"}[v2]},
	} {
		t.Run(test.situation, func(t *testing.T) {
			r := finish(t, inSituation(test.situation, "-m", root, "-c", "/bin/echo", "-a", "it runs"))
			if r.status != test.status || !strings.Contains(r.stderr, test.want) || (r.stdout == "it runs\n") != (test.status == 0) {
				t.Errorf("%+v\nwant %q", r, test.want)
			}
			asked := finish(t, inSituation(test.situation, "--pids", "9", "-q", "-m", root, "-c", "/bin/echo", "-a", "it runs"))
			if asked.status != statusBarcoFailed || asked.stdout != "" || test.status == 0 && !strings.Contains(asked.stderr, "barco: cgroup: pids.max cannot be enforced: ") {
				t.Errorf("with a limit that was asked for: %+v", asked)
			}
			check := finish(t, inSituation(test.situation, "--check"))
			verdict := map[int]int{125: verdictMissing, 0: verdictLimited}[test.status]
			hint := test.want
			if test.status != 0 && strings.Contains(hint, "hint: ") {
				_, hint, _ = strings.Cut(hint, "hint: ")
				hint, _, _ = strings.Cut(hint, "\n")
			}
			if check.status != verdict || !strings.Contains(check.stdout, hint) {
				t.Errorf("--check: status %d, want %d with %q:\n%s", check.status, verdict, hint, check.stdout)
			}
		})
	}
}

// Where clone3 is refused, the child is moved into its cgroup, and does nothing before it is there.
func TestClone3Refused(t *testing.T) {
	root := busyboxRoot(t)
	r := finish(t, inSituation("clone3 refused", "-v", "-m", root, "-c", "/bin/cat", "-a", "/proc/self/cgroup"))
	if r.status != 0 || !strings.Contains(r.stdout, "0::/\n") || !strings.Contains(r.stderr, "write cgroup.procs") {
		t.Errorf("%+v", r)
	}
	if hasController(t, "pids") {
		r = finish(t, inSituation("clone3 refused", "-q", "--pids", "7", "-m", root, "-c", "/bin/cat", "-a", "/sys/fs/cgroup/pids.max"))
		equal(t, "pids.max", r.stdout, "7\n")
	}
}

// Below a cgroup that has processes of its own there can be no limits: the "no internal processes" rule.
func TestProcessesAbove(t *testing.T) {
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	if !hasController(t, "memory") {
		t.Log("not here: the rule is about controllers, and this machine has none of v2; the VM has")
		return
	}
	above := top + "/barco_test_above"
	must(t, os.Mkdir(above, 0o755))
	defer os.Remove(above)
	for _, controller := range []string{"memory", "cpu", "pids"} {
		must(t, writeExisting(unix.AT_FDCWD, top+"/cgroup.subtree_control", "+"+controller))
	}
	dir, err := os.Open(above)
	must(t, err)
	defer dir.Close()
	cmd := inSituation("processes above", "-m", busyboxRoot(t), "-c", "/bin/echo", "-a", "it runs")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	r := finish(t, cmd)
	if r.status != 0 || r.stdout != "it runs\n" || !strings.Contains(r.stderr, "/sys/fs/cgroup has processes of its own, so it cannot hand the") {
		t.Errorf("%+v", r)
	}
}

// userRoot is a root that an ordinary user can work with: the mount points are there, for they could not make them.
func userRoot(t *testing.T) string {
	root := busyboxRoot(t)
	for _, name := range []string{"proc", "sys", "dev"} {
		must(t, os.Mkdir(root+"/"+name, 0o755))
	}
	must(t, os.Chmod(filepath.Dir(root), 0o755))
	return root
}

// asUser makes a command run as an ordinary user, who has a supplementary group.
func asUser(cmd *exec.Cmd) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1000, Gid: 1001, Groups: []uint32{27}}
	cmd.Dir = "/"
	return cmd
}

func TestWithoutRoot(t *testing.T) {
	root := userRoot(t)
	for _, uid := range []string{"0", "1000", "65534"} {
		cmd := asUser(command("-m", root, "-u", uid, "-c", "/bin/sh", "--", "-c", "cat /proc/self/status; for f in uid_map gid_map setgroups; do echo $f: $(cat /proc/self/$f); done; hostname; echo $$; > /dev/null; echo > /dev/shm/x && echo wrote; touch /bin/x"))
		r := finish(t, cmd)
		four := strings.TrimSpace(strings.Repeat(uid+" ", 4))
		equal(t, "Uid", statusField(r.stdout, "Uid"), four)
		equal(t, "Gid", statusField(r.stdout, "Gid"), four)
		equal(t, "Groups", statusField(r.stdout, "Groups"), "65534")
		equal(t, "uid_map", statusField(r.stdout, "uid_map"), uid+" 1000 1")
		equal(t, "gid_map", statusField(r.stdout, "gid_map"), uid+" 1001 1")
		equal(t, "setgroups", statusField(r.stdout, "setgroups"), "deny")
		equal(t, "Seccomp", statusField(r.stdout, "Seccomp"), "2")
		equal(t, "CapBnd", statusField(r.stdout, "CapBnd"), "00000000000425eb")
		if !strings.HasSuffix(r.stdout, "deny\nbarcontainer\n1\nwrote\n") || !strings.Contains(r.stderr, "touch: /bin/x: Permission denied") {
			t.Errorf("%+v", r)
		}
		if !strings.Contains(r.stderr, "without root, uid "+uid+" inside is you, uid 1000, and no other id exists inside") {
			t.Errorf("it is not explained: %s", r.stderr)
		}
	}
	if r := finish(t, asUser(command("--check"))); r.status != verdictLimited || !strings.Contains(r.stdout, "limited  started by uid 1000, not by root") {
		t.Errorf("--check: %+v", r)
	}
	if r := finish(t, asUser(command("-q", "-m", root, "--pids", "9", "-c", "/bin/true"))); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "pids.max cannot be enforced: ") {
		t.Errorf("a limit without a delegated cgroup: %+v", r)
	}
}

// An ordinary user has limits where part of the cgroup tree was delegated to them.
func TestDelegatedCgroup(t *testing.T) {
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	delegated := top + "/barco_test_delegated"
	must(t, os.MkdirAll(delegated+"/session", 0o755))
	defer os.Remove(delegated)
	defer os.Remove(delegated + "/session")
	for _, path := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", "/session", "/session/cgroup.procs"} {
		must(t, os.Chown(delegated+path, 1000, 1001))
	}
	dir, err := os.Open(delegated + "/session")
	must(t, err)
	defer dir.Close()
	root := userRoot(t)
	run := func(args ...string) result {
		cmd := asUser(command(append([]string{"-q", "-m", root, "-c", "/bin/sh"}, args...)...))
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return finish(t, cmd)
	}
	const script = "grep 0:: /proc/self/cgroup; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max"
	if !hasController(t, "pids") {
		if r := run("--", "-c", "grep 0:: /proc/self/cgroup"); r.stdout != "0::/\n" {
			t.Errorf("%+v", r)
		}
		return
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		must(t, writeExisting(unix.AT_FDCWD, top+"/cgroup.subtree_control", "+"+controller))
	}
	r := run("--pids", "9", "--memory", "32m", "--", "-c", script)
	if r.stdout != "0::/\n9\n33554432\n" {
		t.Errorf("%+v", r)
	}
	if left, _ := filepath.Glob(delegated + "/" + cgroupPrefix + "*"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// The settings that switch user namespaces off are recognised, each by its own sentence.
func TestSettings(t *testing.T) {
	defer func(before string) { procSys = before }(procSys)
	for _, s := range settings {
		procSys = t.TempDir() + "/"
		must(t, os.Chmod(filepath.Dir(filepath.Clean(procSys)), 0o755))
		must(t, os.MkdirAll(filepath.Dir(procSys+s.path), 0o755))
		must(t, os.WriteFile(procSys+s.path, []byte(s.off+"\n"), 0o644))
		want := ""
		if s.root {
			want = s.sentence
		}
		equal(t, s.path+", for root", userNamespacesOff(), want)
		runAs(t, 1000, func() { equal(t, s.path+", for a user", userNamespacesOff(), s.sentence) })
		must(t, os.WriteFile(procSys+s.path, []byte("7\n"), 0o644))
		equal(t, s.path+" is on", userNamespacesOff(), "")
	}
}

// runAs runs f in a thread that has another effective uid.
func runAs(t *testing.T, uid int, f func()) {
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno == 0 {
			f()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// Debian's sysctl, where this kernel has it.
func TestDebianSetting(t *testing.T) {
	const path = "/proc/sys/kernel/unprivileged_userns_clone"
	if os.Getenv(initramfsVariable) == "" {
		t.Log("not here: it changes a setting of the machine, so it runs in the VM; TestSettings has seen the sentence")
		return
	}
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte("0"), 0))
	defer os.WriteFile(path, before, 0)
	r := finish(t, asUser(command("-q", "-m", userRoot(t), "-c", "/bin/true")))
	if r.status != statusBarcoFailed || !strings.Contains(r.stderr, "kernel.unprivileged_userns_clone is 0") {
		t.Errorf("%+v", r)
	}
	if r := barco(t, "-q", "-m", "/", "-c", "/bin/true"); r.status != 0 {
		t.Errorf("root is not affected by it, and still: %+v", r)
	}
}

func TestCheckKernel(t *testing.T) {
	for release, want := range map[string]finding{
		"6.1.0-56-cloud-amd64":             {verdictOK, "Linux 6.1.0-56-cloud-amd64", ""},
		"5.14":                             {verdictOK, "Linux 5.14", ""},
		"5.13.19":                          {verdictMissing, "Linux 5.13.19", "barco needs Linux 5.14 or newer"},
		"4.18.0-553.el8.x86_64":            {verdictMissing, "Linux 4.18.0-553.el8.x86_64", "barco needs Linux 5.14 or newer"},
		"6.6.87.2-microsoft-standard-WSL2": {verdictOK, "Linux 6.6.87.2-microsoft-standard-WSL2, which is WSL2", ""},
	} {
		if got := checkKernel(release); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v", release, got)
		}
	}
}

func TestCheck(t *testing.T) {
	r := barco(t, "--check")
	t.Logf("\n%s", r.stdout)
	want := verdictLimited
	if hasController(t, "memory") && hasController(t, "cpu") && hasController(t, "pids") {
		want = verdictOK
	}
	lines := strings.Split(r.stdout, "\n")
	if r.status != want || r.stderr != "" || len(lines) > 30 {
		t.Errorf("status %d, want %d, %d lines:\n%s%s", r.status, want, len(lines), r.stdout, r.stderr)
	}
	for _, thing := range []string{"ok       Linux ", "ok       namespaces: user\n", "ok       namespaces: cgroup\n", "ok       user.max_user_namespaces is ", "kernel.apparmor_restrict_unprivileged_userns is ", "controller memory", "controller cpu", "controller pids", "ok       seccomp filters, libseccomp 2.", "ok       rehearsal of a whole start, up to execve:\n         cgroup namespace, host name, ", " pivot_root"} {
		if !strings.Contains(r.stdout, thing) {
			t.Errorf("--check does not say %q:\n%s", thing, r.stdout)
		}
	}
}

// initramfsVariable is set in the VM alone, to the file with what barco said on the initramfs.
const initramfsVariable = "BARCO_TEST_INITRAMFS"

// On the initramfs there is nothing to pivot away from. Only the VM can show it: its init has run barco there, before the tests.
func TestInitramfs(t *testing.T) {
	path := os.Getenv(initramfsVariable)
	if path == "" {
		t.Log("not here: only the VM's init runs on an initramfs")
		return
	}
	data, err := os.ReadFile(path)
	must(t, err)
	want := "barco: pivot_root: pivot_root(\".\", \".\"): invalid argument (EINVAL)\nbarco: hint: the present root likely is the initramfs"
	if !bytes.Contains(data, []byte(want)) || !bytes.HasSuffix(data, []byte("\nstatus 125\n")) {
		t.Errorf("it said:\n%s\nwant\n%s", data, want)
	}
}

// barco in a barco: the inner one is told in a sentence what the outer one keeps from it.
func TestNested(t *testing.T) {
	root := userRoot(t)
	exe, err := os.Executable()
	must(t, err)
	copyFile(t, exe, root+"/bin/barco")
	copyLibraries(t, exe, root)
	inner := []string{"--", "-q", "-m", "/", "-c", "/bin/true"}
	args := append([]string{"-q", "-m", root, "-c", "/bin/barco", "--env", runAsBarco + "=1"}, inner...)
	if r := barco(t, args...); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "(ENOSYS)\nbarco: hint: likely barco runs inside a container whose seccomp filter hides this call, as barco's own does") {
		t.Errorf("%+v", r)
	}
	args = append([]string{"--skip", "seccomp:struct-args"}, args...)
	if r := barco(t, args...); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "(EPERM)\nbarco: hint: making namespaces needs CAP_SYS_ADMIN") {
		t.Errorf("with openat2: %+v", r)
	}
	skip := []string{"--skip", "seccomp", "--cap-add", "SYS_ADMIN"}
	if r := barco(t, append(skip, args[2:]...)...); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "mount too revealing") {
		t.Errorf("with more powers: %+v", r)
	}
}

// copyLibraries copies what a dynamic program needs to a root, where it is in the host's.
func copyLibraries(t *testing.T, program, root string) {
	t.Helper()
	out, _ := exec.Command("ldd", program).CombinedOutput() // fails for a static program, which needs none
	for _, path := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && path != program {
			must(t, os.MkdirAll(filepath.Dir(root+path), 0o755))
			copyFile(t, path, root+path)
		}
	}
}
