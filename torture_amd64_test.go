package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// Torture: at each system call that parent and child make, let it fail, or kill one of the two there and then. Whatever happens,
// barco ends soon, says at which step, and leaves nothing; and should the command run after all, it is contained in full.
//
// strace -e inject can do the same, but counts for each thread by itself, and cannot tell parent from child. So a tracer
// (ptrace(2)), which is this test binary once more, counts the calls of one side and strikes at one of them.

// A blow is what happens at one system call.
type blow struct {
	Side  string // whose: "parent" or "child"
	N     int    // which of them, from 1; 0 for none
	How   string // "error", "kill", "kill the other"
	Errno unix.Errno
}

func (b blow) String() string {
	return fmt.Sprintf("%s's system call %d: %s %s", b.Side, b.N, b.How, unix.ErrnoName(b.Errno))
}

// An outcome is what the tracer saw.
type outcome struct {
	Call   string         // the system call that was hit, "" when there was none
	Calls  map[string]int // how many each side made
	PID    int            // barco's
	Status int            // barco's; 128+N when it was killed
	Took   time.Duration  // from the blow until the last process was gone
}

// tortureHangs is how long a case may take before it is taken for one that never ends.
const tortureHangs = 30 * time.Second

func init() { torment = traceBarco }

// A tracer follows a barco and all that comes of it.
type tracer struct {
	blow
	outcome
	sides   map[int]string // of a process
	groups  map[int]int    // the process of a thread
	inside  map[int]bool   // between entry and exit of a system call
	failing int            // the thread whose call is to fail
	execs   int            // of the child
	struck  time.Time
}

// traceBarco runs a barco with the blow that the variable describes, and writes the outcome to descriptor 3.
func traceBarco(description string) {
	runtime.LockOSThread() // a tracer is a thread
	t := tracer{sides: map[int]string{}, groups: map[int]int{}, inside: map[int]bool{}, outcome: outcome{Calls: map[string]int{}}}
	if err := json.Unmarshal([]byte(description), &t.blow); err != nil {
		panic(err)
	}
	unix.CloseOnExec(3)
	os.Unsetenv(tortureVariable)
	cmd := command(os.Args[1:]...)
	process, err := os.StartProcess(cmd.Path, cmd.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: cmd.Env, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		panic(err)
	}
	t.PID = process.Pid
	t.sides[t.PID] = "parent"
	var status unix.WaitStatus
	if _, err := unix.Wait4(t.PID, &status, 0, nil); err != nil {
		panic(err)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(t.PID, options); err != nil {
		panic(err)
	}
	unix.PtraceSyscall(t.PID, 0)
	time.AfterFunc(tortureHangs, func() { // the kernel kills whom we trace (PTRACE_O_EXITKILL)
		fmt.Fprintf(os.Stderr, "HANGS after %s\n", t.Call)
		os.Exit(1)
	})
	for {
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if err == unix.ECHILD {
			break
		}
		if err == nil {
			t.event(tid, status)
		}
	}
	t.Took = time.Since(t.struck)
	json.NewEncoder(os.NewFile(3, "outcome")).Encode(t.outcome)
}

// event sees to one stop of one thread, and lets it go on.
func (t *tracer) event(tid int, status unix.WaitStatus) {
	signal := status.StopSignal()
	switch {
	case status.Exited() && tid == t.PID:
		t.Status = status.ExitStatus()
		return
	case status.Signaled() && tid == t.PID:
		t.Status = 128 + int(status.Signal())
		return
	case !status.Stopped():
		return
	case signal == unix.SIGTRAP|0x80:
		t.systemCall(tid)
		signal = 0
	case signal == unix.SIGTRAP:
		if status.TrapCause() == unix.PTRACE_EVENT_EXEC && t.sides[t.groupOf(tid)] == "child" {
			t.execs++
		}
		signal = 0
	case signal == unix.SIGSTOP: // how a new thread begins
		signal = 0
	case signal == unix.SIGSEGV && !handles(tid, unix.SIGSEGV): // it kills a process 1 as well, but not while that is traced
		unix.Kill(t.groupOf(tid), unix.SIGKILL)
	}
	unix.PtraceSyscall(tid, int(signal))
}

// groupOf returns the process that a thread belongs to, and notes the one in a pid namespace of its own as the child.
func (t *tracer) groupOf(tid int) int {
	if t.groups[tid] == 0 {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
		group := tid
		fmt.Sscan(statusField(string(data), "Tgid"), &group)
		t.groups[tid] = group
		if len(strings.Fields(statusField(string(data), "NSpid"))) == 2 && len(t.sides) == 1 {
			t.sides[group] = "child"
		}
	}
	return t.groups[tid]
}

// systemCall strikes at the entry of the call that the blow is for.
func (t *tracer) systemCall(tid int) {
	var regs unix.PtraceRegs
	t.inside[tid] = !t.inside[tid]
	if !t.inside[tid] {
		if t.failing == tid && unix.PtraceGetRegs(tid, &regs) == nil {
			regs.Rax = -uint64(t.Errno)
			unix.PtraceSetRegs(tid, &regs)
			t.failing = 0
		}
		return
	}
	group := t.groupOf(tid)
	side := t.sides[group]
	if side == "" || side == "child" && t.execs == 2 || unix.PtraceGetRegs(tid, &regs) != nil { // execs: it is the command
		return
	}
	if side == "parent" && t.Calls[side] == 0 && regs.Rdi != mainBegins { // Go's runtime is starting, and barco cannot speak yet
		return
	}
	t.Calls[side]++
	if side != t.Side || t.Calls[side] != t.N {
		return
	}
	t.Call, _ = libseccomp.ScmpSyscall(regs.Orig_rax).GetName()
	t.struck = time.Now()
	switch t.How {
	case "error":
		file, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", group, regs.Rdi))
		if slices.Contains(cannotFail, t.Call) || t.Call == "read" && strings.HasPrefix(file, "pipe:") {
			t.Call = ""
			return
		}
		if strings.Contains(file, "eventfd") {
			t.Call = "eventfd2" // by which the runtime wakes itself
		}
		if t.Call != "close" { // which has closed the descriptor whatever it answers (close(2))
			regs.Orig_rax = ^uint64(0)
		}
		unix.PtraceSetRegs(tid, &regs)
		t.failing = tid
	case "kill":
		unix.Kill(group, unix.SIGKILL)
	case "kill the other":
		t.Call += ", of " + t.Side
		for other := range t.sides {
			if other != group {
				unix.Kill(other, unix.SIGKILL)
				return
			}
		}
		t.Call = "" // there is no other yet
	}
}

// cannotFail are system calls that do not come back, and those of which the man page says that they always succeed. So does reading
// from a pipe that is open, which is how Go learns whether the clone's execve succeeded: it would wait for a child that waits for it.
var cannotFail = strings.Fields("exit exit_group rt_sigreturn getuid geteuid getgid getegid getpid gettid getppid umask")

// runtimeCalls are those of Go's runtime and of the dynamic loader. When one of them fails, they end the program with words of their own.
var runtimeCalls = strings.Fields("mmap munmap mprotect madvise brk futex rt_sigaction rt_sigprocmask sigaltstack clone clone3 sched_getaffinity arch_prctl " +
	"set_tid_address set_robust_list rseq prlimit64 getrandom gettid tgkill getpid epoll_create1 epoll_ctl epoll_pwait eventfd2 access read pread64 fstat openat newfstatat")

// One torture is a root and the answers of an undisturbed run.
type torture struct {
	args        []string
	fingerprint string
	mountinfo   string
	limit       time.Duration
}

// strike runs one case and returns what was wrong with it: "" when barco held; and the outcome.
func (to *torture) strike(t *testing.T, b blow, root string) (wrong string, o outcome) {
	description, err := json.Marshal(b)
	must(t, err)
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{"-m", root}, to.args...)...)
	cmd.Env = append(os.Environ(), tortureVariable+"="+string(description))
	cmd.ExtraFiles = []*os.File{writer}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must(t, cmd.Start())
	writer.Close()
	if err := errors.Join(json.NewDecoder(reader).Decode(&o), cmd.Wait()); err != nil {
		return fmt.Sprintf("no outcome: %v\n%v: %s", err, b, stderr.String()), o
	}
	becameCommand := strings.Contains(stderr.String(), "the command was killed by SIGKILL") // or was about to
	killed := o.Status == 128+int(unix.SIGKILL) && !becameCommand
	runtimes := b.How == "error" && slices.Contains(runtimeCalls, o.Call)
	died := runtimes && !slices.Contains([]int{0, statusBarcoFailed}, o.Status) // with 2, 127, 134 or 139, and words of its own
	contained := containment(stdout.String())
	var left []string
	if data, _ := os.ReadFile("/proc/self/mountinfo"); to.mountinfo != "" && string(data) != to.mountinfo {
		left = append(left, "a mount")
	}
	if top, _ := findCgroup2("/proc/self/mountinfo"); !killed && !died {
		paths, _ := filepath.Glob(fmt.Sprintf("%s/%s%d-*", top, cgroupPrefix, o.PID))
		left = append(left, paths...)
	}
	for _, name := range []string{"/dev", "/sys", "/proc"} { // for the next case; a killed barco cannot, and a command that ran needed them
		if os.Remove(root+name) == nil && !killed && !died && !becameCommand && contained == "" {
			left = append(left, name)
		}
	}
	said := becameCommand || regexp.MustCompile(`(?m)^barco: .+: .`).MatchString(stderr.String())
	gaveUp := strings.Contains(stderr.String(), "cannot remove the cgroup") && b.How == "error" // the next case's barco will
	if gaveUp {
		left = slices.DeleteFunc(left, func(path string) bool { return strings.Contains(path, cgroupPrefix) })
	}
	halfway := died || o.Status == statusBarcoFailed || b.How != "error" && o.Status > 128 // barco, or its end, or a signal, has ended the command
	complete := contained == to.fingerprint || contained == "" || halfway && strings.HasPrefix(to.fingerprint, contained)
	switch {
	case b.N > 0 && o.Call == "": // there were fewer
	case to.limit > 0 && o.Took > to.limit:
		wrong = fmt.Sprintf("it took %v", o.Took)
	case len(left) > 0:
		wrong = fmt.Sprintf("left behind: %v", left)
	case to.fingerprint != "" && !complete:
		wrong = fmt.Sprintf("the command ran, contained otherwise:\n%s", contained)
	case to.fingerprint != "" && o.Status == 0 && contained == "":
		wrong = "status 0, and the command did not run"
	case strings.Contains(stderr.String(), "goroutine ") && !runtimes:
		wrong = "a stack of Go's"
	case o.Status != 0 && !said && !killed && !died:
		wrong = "no step named"
	}
	if wrong != "" {
		wrong += fmt.Sprintf("\n%v (%s): status %d, and it said\n%s", b, o.Call, o.Status, stderr.String())
	}
	return wrong, o
}

// TestTorture tries a sample of the cases, `make torture` every one.
func TestTorture(t *testing.T) {
	source := t.TempDir()
	for name, options := range map[string][]string{
		"the classic run":   nil,
		"with all its tree": {"--idmap", "--overlay", "--no-new-privs", "--bind", source + ":/mnt"},
	} {
		t.Run(name, func(t *testing.T) { tortured(t, options) })
	}
}

func tortured(t *testing.T, options []string) {
	before := hostState()
	to := &torture{args: append(options, strings.Fields("-c /bin/cat -- /proc/self/status /proc/self/uid_map /proc/self/gid_map /proc/self/cgroup /proc/self/mountinfo /proc/sys/kernel/hostname")...)}
	roots := []string{busyboxRoot(t), busyboxRoot(t)}
	for _, root := range roots {
		must(t, os.Mkdir(root+"/mnt", 0o755))
	}
	wrong, o := to.strike(t, blow{}, roots[0])
	if wrong != "" || o.Status != 0 || o.Calls["parent"] < 100 || o.Calls["child"] < 100 {
		t.Fatalf("without a blow: %s, %+v", wrong, o)
	}
	to.fingerprint = containment(barco(t, append([]string{"-m", roots[0]}, to.args...)...).stdout)
	for _, name := range mountPoints {
		os.Remove(roots[0] + "/" + name) // not there with --overlay
	}
	to.mountinfo, to.limit = readAll(t, "/proc/self/mountinfo"), 2*time.Second
	step, errnos := 41, []unix.Errno{unix.EIO} // an errno says that something went wrong; ENOENT would say that something is not there, which is a lie
	if options != nil {
		step = 97
	}
	if os.Getenv(initramfsVariable) != "" { // the machine is an emulated one, and 30 times slower
		step, to.limit = 401, 15*time.Second
	}
	switch {
	case whole() && options == nil:
		step, errnos = 1, append(errnos, unix.EPERM)
	case whole():
		step = 3 // most of it is the same
	}
	var blows []blow
	for _, side := range []string{"parent", "child"} {
		for n := 1; n <= o.Calls[side]+o.Calls[side]/20; n += step { // Go's runtime makes a few more, or less, each time
			for _, errno := range errnos {
				blows = append(blows, blow{side, n, "error", errno})
			}
			blows = append(blows, blow{side, n, "kill", 0}, blow{side, n, "kill the other", 0})
		}
	}
	var lock sync.Mutex
	cases, held := 0, 0
	work := make(chan blow)
	var wait sync.WaitGroup
	for _, root := range roots {
		wait.Go(func() {
			for b := range work {
				wrong, o := to.strike(t, b, root)
				lock.Lock()
				if wrong != "" {
					fmt.Println(wrong)
					t.Error(wrong)
				} else if o.Call != "" {
					held++
				}
				if wrong != "" || o.Call != "" {
					cases++
				}
				lock.Unlock()
			}
		})
	}
	for _, b := range blows {
		work <- b
	}
	close(work)
	wait.Wait()
	fmt.Printf("%s: %d system calls of parent and child, %d cases, %d held\n", t.Name(), o.Calls["parent"]+o.Calls["child"], cases, held)
	barco(t, "-q", "-m", roots[0], "-c", "/bin/true") // clears away what the killed ones could not
	sameHost(t, before)
}
