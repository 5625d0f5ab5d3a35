package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// The filter is run here in a simulator and compared with what the denylist says in words. arm64.sh runs these tests once more,
// compiled for arm64, where most numbers are others.

// instructions are the filter, as the kernel gets it.
func instructions(t *testing.T, filter *libseccomp.ScmpFilter) []unix.SockFilter {
	t.Helper()
	reader, writer, err := os.Pipe()
	must(t, err)
	must(t, filter.ExportBPF(writer))
	writer.Close()
	data, err := io.ReadAll(reader)
	must(t, err)
	program := make([]unix.SockFilter, len(data)/8)
	must(t, binary.Read(bytes.NewReader(data), binary.NativeEndian, program))
	return program
}

// simulate runs a filter on a system call, as the kernel would (bpf(4) on BSD has the machine; seccomp(2) has its input).
func simulate(t *testing.T, program []unix.SockFilter, arch uint32, number int, arguments [6]uint64) (action uint32) {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, uint32(number))
	data = binary.LittleEndian.AppendUint32(data, arch)
	data = binary.LittleEndian.AppendUint64(data, 0) // the instruction pointer
	for _, a := range arguments {
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var accumulator uint32
	for pc := 0; ; pc++ {
		i := program[pc]
		jump := func(condition bool) {
			if condition {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			accumulator = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			accumulator &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(accumulator == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(accumulator >= i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(accumulator > i.K)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d is %#x, which this simulator does not know", pc, i.Code)
		}
	}
}

// A refusal is one call of the denylist with its group's errno.
type refusal struct {
	call
	errno unix.Errno
}

// refusals returns the denylist by number, on this architecture.
func refusals(t *testing.T) map[int]refusal {
	t.Helper()
	byNumber := map[int]refusal{}
	for _, g := range denylist() {
		for _, c := range g.calls {
			byNumber[numberOf(t, c)] = refusal{c, g.errno}
		}
	}
	return byNumber
}

// of says whether the denylist refuses a call with these arguments.
func (r refusal) of(arguments [6]uint64) bool {
	for _, condition := range r.when {
		holds := true
		for _, test := range condition {
			holds = holds && arguments[test.argument]&test.mask == test.value
		}
		if holds {
			return true
		}
	}
	return r.when == nil && r.errno != 0
}

// numberOf returns a call's number on this architecture, a negative one when it has none.
func numberOf(t *testing.T, c call) int {
	t.Helper()
	if c.number != 0 {
		return c.number
	}
	number, err := libseccomp.GetSyscallFromName(c.name)
	must(t, err)
	return int(number)
}

func TestFilterMeansTheDenylist(t *testing.T) {
	libseccomp.SetAPI(5) // as on a kernel that has all; emulated, arm64 has none, and nothing is loaded here
	arch, foreign := uint32(unix.AUDIT_ARCH_X86_64), uint32(unix.AUDIT_ARCH_I386)
	if runtime.GOARCH == "arm64" {
		arch, foreign = unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM
	}
	filter, _, err := buildFilter(nil)
	must(t, err)
	defer filter.Release()
	program := instructions(t, filter)

	// Every number, with arguments that hold and that nearly hold each condition of the list.
	values := []uint64{0, 1, 0xffffffff, 1 << 32, ^uint64(0)}
	for _, g := range denylist() {
		for _, c := range g.calls {
			for _, condition := range c.when {
				for _, test := range condition {
					values = append(values, test.value, test.value|1<<32, test.value|1<<63, test.value+1, test.value-1)
				}
			}
		}
	}
	tried, byNumber := 0, refusals(t)
	for number := range 1024 {
		values := values
		if byNumber[number].when == nil { // its arguments decide nothing
			values = values[:5]
		}
		for _, value := range values {
			for position := range 4 {
				for _, rest := range []uint64{0, unix.O_CREAT, 0o4000} {
					arguments := [6]uint64{rest, rest, rest, rest}
					arguments[position] = value
					action := simulate(t, program, arch, number, arguments)
					want := uint32(unix.SECCOMP_RET_ALLOW)
					if r := byNumber[number]; r.of(arguments) {
						want = unix.SECCOMP_RET_ERRNO | uint32(r.errno)
					}
					if action != want {
						t.Fatalf("system call %d(%#x): the filter says %#x, the denylist %#x", number, arguments, action, want)
					}
					tried++
				}
			}
		}
		if action := simulate(t, program, foreign, number, [6]uint64{}); action != unix.SECCOMP_RET_KILL_PROCESS {
			t.Fatalf("system call %d of another architecture: %#x", number, action)
		}
		if arch == unix.AUDIT_ARCH_X86_64 {
			if action := simulate(t, program, arch, number|0x40000000, [6]uint64{}); action != unix.SECCOMP_RET_KILL_PROCESS {
				t.Fatalf("system call %d of x32: %#x", number, action)
			}
		}
	}
	t.Logf("%s: %d instructions, %d inputs", runtime.GOARCH, len(program), tried)
}

// The numbers that matter most, by themselves: a list that resolved its names wrongly would agree with itself.
func TestFilterNumbers(t *testing.T) {
	for name, number := range map[string]int{
		"mount": unix.SYS_MOUNT, "unshare": unix.SYS_UNSHARE, "setns": unix.SYS_SETNS, "clone": unix.SYS_CLONE, "clone3": unix.SYS_CLONE3,
		"bpf": unix.SYS_BPF, "keyctl": unix.SYS_KEYCTL, "ptrace": unix.SYS_PTRACE, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT,
		"io_uring_setup": unix.SYS_IO_URING_SETUP, "fchmodat2": unix.SYS_FCHMODAT2, "open_tree_attr": unix.SYS_OPEN_TREE_ATTR,
		"file_getattr": unix.SYS_FILE_GETATTR, "listns": unix.SYS_LISTNS, "rseq_slice_yield": unix.SYS_RSEQ_SLICE_YIELD, "lsm_list_modules": unix.SYS_LSM_LIST_MODULES,
	} {
		found := false
		for _, g := range denylist() {
			for _, c := range g.calls {
				if c.name == name {
					found = true
					if got := numberOf(t, c); got != number {
						t.Errorf("%s is %d, and the denylist has %d", name, number, got)
					}
				}
			}
		}
		if !found {
			t.Errorf("%s is not in the denylist", name)
		}
	}
}

// The list knows of every system call that golang.org/x/sys does: when that is updated, somebody has to look at the new ones.
func TestListIsUpToDate(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Log("not here: there is no go command; make test has one")
		return
	}
	source, err := os.ReadFile(strings.TrimSpace(string(dir)) + "/unix/zsysnum_linux_" + runtime.GOARCH + ".go")
	must(t, err)
	newest := 0
	for _, match := range regexp.MustCompile(`SYS_\w+ += (\d+)`).FindAllStringSubmatch(string(source), -1) {
		if number, _ := strconv.Atoi(match[1]); number > newest {
			newest = number
		}
	}
	if newest < 400 || newest > newestReviewed {
		t.Errorf("golang.org/x/sys knows of system call %d, the denylist was reviewed up to %d", newest, newestReviewed)
	}
}

// What Docker's default profile denies, and barco allows: nothing.
func TestNoWiderThanDocker(t *testing.T) {
	data, err := os.ReadFile("testdata/docker-denied")
	if errors.Is(err, os.ErrNotExist) {
		data, err = os.ReadFile("/testdata/docker-denied") // the VM's test binary has no source tree around it
	}
	must(t, err)
	byNumber, arch, lines := refusals(t), map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH], 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if fields[0] != arch {
			continue
		}
		number, err := strconv.Atoi(fields[1])
		must(t, err)
		if r := byNumber[number]; r.when != nil || r.errno == 0 || r.errno != unix.ENOSYS && fields[3] == "ENOSYS" {
			t.Errorf("Docker answers %s to %s, and barco: %v, when %v", fields[3], fields[2], r.errno, r.when)
		}
		lines++
	}
	if lines < 50 {
		t.Errorf("only %d lines for %s", lines, arch)
	}
	for name, refused := range map[string]func(arguments uint64) bool{
		"socket":      func(family uint64) bool { return family == unix.AF_ALG || family == unix.AF_VSOCK },
		"clone":       func(flags uint64) bool { return flags&0x7e020000 != 0 },
		"personality": func(p uint64) bool { return p != 0 && p != 8 && p != 0x20000 && p != 0x20008 && p != 0xffffffff },
	} {
		number, err := libseccomp.GetSyscallFromName(name)
		must(t, err)
		for value := range uint64(1 << 8) {
			for shift := 0; shift <= 24; shift += 4 {
				value := value << shift
				if got := byNumber[int(number)].of([6]uint64{value}); got != refused(value) {
					t.Errorf("%s(%#x): refused is %v", name, value, got)
				}
			}
		}
	}
}

const probeVariable = "BARCO_TEST_PROBE"

// probe tries one system call, the number that the variable holds, with arguments that no system call can do anything with, and
// prints the errno. With "all" it does so for every number, each in a process of its own.
func probe(what string) {
	if what == "exe" { // what can be done to the file that this process runs from
		_, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0)
		file, _ := os.Open("/proc/self/exe")
		seals, _ := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
		fmt.Printf("%v, seals %#x\n", errors.Is(err, unix.EACCES), seals)
		return
	}
	if what == "ids" { // who this process is, and what it may do
		status, _ := os.ReadFile("/proc/self/status")
		fmt.Printf("uid %s, capabilities %s\n", statusField(string(status), "Uid"), statusField(string(status), "CapEff"))
		return
	}
	if what == "attacks" {
		attack()
		return
	}
	if what == "calls" {
		timeCalls()
		return
	}
	if number, err := strconv.Atoi(what); err == nil {
		bad := ^uintptr(0)
		_, _, errno := unix.RawSyscall6(uintptr(number), bad, bad, bad, bad, bad, bad)
		fmt.Printf("%d %d\n", number, errno)
		return
	}
	var leftOut []int // they return never, or not before a signal, or twice, or end a thread and not the process
	for _, name := range []string{"rt_sigreturn", "pause", "fork", "vfork", "exit"} {
		number, _ := libseccomp.GetSyscallFromName(name)
		leftOut = append(leftOut, int(number))
	}
	if runtime.GOARCH == "amd64" {
		leftOut = append(leftOut, 335, 336) // uretprobe and uprobe, which the kernel shows to no filter
	}
	for number := range 520 {
		if slices.Contains(leftOut, number) {
			continue
		}
		patience, cancel := context.WithTimeout(context.Background(), 20*time.Second) // what blocks has got in, and does not answer
		cmd := exec.CommandContext(patience, "/proc/self/exe")
		cmd.Env = []string{probeVariable + "=" + strconv.Itoa(number)}
		cmd.Stdout = os.Stdout
		cmd.Run()
		cancel()
	}
}

// probeRoot is a root with this test binary in it.
func probeRoot(t *testing.T) string {
	root := userRoot(t)
	exe, err := os.Executable()
	must(t, err)
	copyFile(t, exe, root+"/bin/probe")
	copyLibraries(t, exe, root)
	must(t, os.Mkdir(root+"/tmp", 0o777))
	must(t, os.Chmod(root+"/tmp", 0o1777))
	return root
}

// Every system call there is, made inside: what the list refuses is answered with its errno, and to all others the kernel says
// what it says without the filter.
func TestEverySystemCall(t *testing.T) {
	root := probeRoot(t)
	answers := func(args ...string) map[int]unix.Errno {
		r := barco(t, append([]string{"-q", "-m", root, "-c", "/bin/probe", "--env", probeVariable + "=all"}, args...)...)
		if r.status != 0 {
			t.Fatalf("%+v", r)
		}
		byNumber := map[int]unix.Errno{}
		for line := range strings.Lines(r.stdout) {
			var number, errno int
			if _, err := fmt.Sscan(line, &number, &errno); err == nil {
				byNumber[number] = unix.Errno(errno)
			}
		}
		return byNumber
	}
	with, without, list := answers(), answers("--skip", "seccomp"), refusals(t)
	if len(with) < 500 {
		t.Errorf("only %d system calls answered", len(with))
	}
	refused := 0
	all := ^uint64(0)
	for number, errno := range with {
		want := without[number]
		if r := list[number]; r.of([6]uint64{all, all, all, all, all, all}) {
			want = r.errno
			refused++
		}
		if errno != want {
			t.Errorf("system call %d: %v, want %v (without the filter: %v)", number, errno, want, without[number])
		}
	}
	var silent []int
	for number := range 520 {
		if _, ok := with[number]; !ok {
			silent = append(silent, number)
		}
	}
	t.Logf("%d system calls answered, %d of them by the filter; no answer from %v", len(with), refused, silent)
}
