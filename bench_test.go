package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What a container costs (make bench): the parts one by one, and the whole beside other runtimes.

func BenchmarkStart(b *testing.B) {
	root := busyboxRoot(b)
	for b.Loop() {
		must(b, command("-q", "-m", root, "-c", "/bin/true").Run())
	}
}

// quiet has the parts not tell their story while they are measured.
func quiet(b *testing.B) {
	level := logLevel
	logLevel = levelError
	b.Cleanup(func() { logLevel = level })
}

func BenchmarkFilter(b *testing.B) {
	quiet(b)
	for b.Loop() {
		_, err := compileFilter(&Config{})
		must(b, err)
	}
}

// Capabilities do not come back, so each time a thread is spent on it: one that is locked ends with its goroutine.
func BenchmarkCapabilities(b *testing.B) {
	quiet(b)
	c := &child{}
	for b.Loop() {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			done <- dropCapabilities(c)
		}()
		must(b, <-done)
	}
}

func BenchmarkMountinfo(b *testing.B) {
	text, err := readFile("/proc/self/mountinfo")
	must(b, err)
	b.ReportMetric(float64(strings.Count(text, "\n")), "lines")
	for b.Loop() {
		parseMountinfo(text)
	}
}

// A peer is a program that makes containers.
type peer struct {
	name    string
	program string                                // found in PATH; its size is told
	line    func(id string, do []string) []string // the command line that has do run in a container
	cannot  string                                // why not, on this machine

	times        []float64 // start to exit, seconds
	peak, idle   int       // KiB
	rate         map[int]float64
	calls, looks float64 // ns of a system call that the filter allows at once, and of one whose argument it looks at
}

// peers are all that Debian has, with the same tree, the same namespaces, and where they can, the same limits, capabilities and Docker's filter.
func peers(b *testing.B, root string) []*peer {
	state := b.TempDir()
	oci := func(program string) func(id string, do []string) []string {
		return func(id string, do []string) []string {
			return []string{program, "--root", state + "/" + program, "run", "--bundle", bundle(b, state+"/"+id, root, do), "bench-" + id}
		}
	}
	flags := func(line string) func(id string, do []string) []string {
		return func(_ string, do []string) []string {
			return append(strings.Fields(strings.ReplaceAll(line, "ROOT", root)), do...)
		}
	}
	ours := func(program string) func(id string, do []string) []string {
		return func(id string, do []string) []string {
			return append([]string{program, "-q", "-m", root, "-c", do[0], "--"}, do[1:]...)
		}
	}
	return []*peer{
		{name: "barco", program: "barco", line: ours("barco")},
		{name: "barco, dynamic", program: "barco-dynamic", line: ours("barco-dynamic")},
		{name: "runc", program: "runc", line: oci("runc")},
		{name: "crun", program: "crun", line: oci("crun")},
		{name: "bubblewrap", program: "bwrap", line: flags("bwrap --unshare-all --unshare-user --unshare-cgroup --uid 0 --gid 0 --hostname bench --die-with-parent --new-session " +
			"--bind ROOT / --proc /proc --dev /dev --ro-bind /sys /sys --")},
		{name: "unshare", program: "unshare", line: flags("unshare --user --map-root-user --mount --pid --ipc --net --uts --cgroup --fork --kill-child --root ROOT --mount-proc --")},
	}
}

// bundle makes what an OCI runtime takes: config.json, as `runc spec` and Docker have it, with barco's capabilities, ids, limits and masks.
func bundle(b *testing.B, dir, root string, do []string) string {
	must(b, os.MkdirAll(dir, 0o755))
	var names []string
	for _, k := range kept {
		names = append(names, strings.ToUpper(k.value.String()))
	}
	memory, pids, shares := int64(1<<30), int64(64), uint64(1024)
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: hostIDs, Size: idCount}}
	mount := func(point, fstype string, options string) specs.Mount {
		return specs.Mount{Destination: point, Type: fstype, Source: fstype, Options: strings.Split(options, ",")}
	}
	spec := &specs.Spec{
		Version:  "1.0.2",
		Hostname: "bench",
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args: do, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names},
		},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "nosuid,noexec,nodev"),
			mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
			mount("/dev", "tmpfs", "nosuid,mode=755,size=64k"),
			mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
			mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=64m"),
			mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			UIDMappings: ids, GIDMappings: ids,
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids},
			},
			MaskedPaths: masked, ReadonlyPaths: readOnly,
		},
	}
	if unified() { // on a hybrid host it would be a dozen mounts
		spec.Mounts = append(spec.Mounts, mount("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,ro"))
	}
	var err error
	spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	must(b, err)
	text, err := json.Marshal(spec)
	must(b, err)
	must(b, os.WriteFile(dir+"/config.json", text, 0o644))
	return dir
}

// BenchmarkPeers prints the table. It measures all in turns, so that whatever else the machine does meets all of them.
func BenchmarkPeers(b *testing.B) {
	if b.N > 1 {
		b.Fatal("one round is enough: -benchtime 1x")
	}
	b.Cleanup(func() { os.Chown("/dev/null", 0, 0) }) // crun gives its standard streams to the container's root, and this one is the host's
	root := busyboxRoot(b)
	must(b, os.Chmod(filepath.Dir(root), 0o755)) // for the container's root, who is nobody there
	for _, name := range mountPoints {
		must(b, os.Mkdir(root+"/"+name, 0o755))
	}
	exe, err := os.Executable()
	must(b, err)
	copyFile(b, exe, root+"/bin/probe")

	all := peers(b, root)
	able := slices.DeleteFunc(slices.Clone(all), func(p *peer) bool {
		p.cannot = tryPeer(p)
		return p.cannot != ""
	})
	rounds, runs, starts := 10, 20, 192
	if os.Getenv(initramfsVariable) != "" { // emulated, and so a hundred times slower
		rounds, runs, starts = 2, 8, 0
	}
	for range rounds {
		timeStarts(b, able, runs)
	}
	for _, p := range able {
		slices.Sort(p.times)
		p.peak, p.idle = peakMemory(b, p), idleMemory(b, p)
		p.rate, p.calls, p.looks = map[int]float64{}, math.Inf(1), math.Inf(1)
	}
	for range 2 {
		for _, atOnce := range []int{1, 8, 64} {
			for _, p := range able {
				p.rate[atOnce] = max(p.rate[atOnce], startRate(b, p, atOnce, max(starts, atOnce, 8)))
			}
		}
	}
	for range 3 {
		for _, p := range able {
			calls, looks := callCosts(b, p)
			p.calls, p.looks = min(p.calls, calls), min(p.looks, looks)
		}
	}
	fmt.Print("--- table\n", tables(all), "--- end\n")
}

// tryPeer says why a peer cannot run here, "" when it can.
func tryPeer(p *peer) string {
	if _, err := exec.LookPath(p.program); err != nil {
		return "not installed"
	}
	line := p.line("try", []string{"/bin/true"})
	if output, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		return fmt.Sprintf("%v: %s", err, lines[len(lines)-1])
	}
	return ""
}

// timeStarts has hyperfine run each peer's /bin/true so many times.
func timeStarts(b *testing.B, peers []*peer, runs int) {
	out := b.TempDir() + "/times.json"
	args := []string{"--shell=none", "--style=none", "--warmup=2", "--runs=" + strconv.Itoa(runs), "--export-json=" + out}
	for _, p := range peers {
		args = append(args, strings.Join(p.line("time", []string{"/bin/true"}), " "))
	}
	if output, err := exec.Command("hyperfine", args...).CombinedOutput(); err != nil {
		b.Fatalf("hyperfine: %v\n%s", err, output)
	}
	data, err := os.ReadFile(out)
	must(b, err)
	var answer struct{ Results []struct{ Times []float64 } }
	must(b, json.Unmarshal(data, &answer))
	for i, p := range peers {
		p.times = append(p.times, answer.Results[i].Times...)
	}
}

// peakMemory is the largest resident set of a peer's processes, up to the command's end: of the largest of them (getrusage(2)).
func peakMemory(b *testing.B, p *peer) (kib int) {
	out := b.TempDir() + "/peak"
	line := p.line("peak", []string{"/bin/true"})
	must(b, exec.Command("time", append([]string{"-f", "%M", "-o", out}, line...)...).Run())
	text, err := os.ReadFile(out)
	must(b, err)
	_, err = fmt.Sscan(string(text), &kib)
	must(b, err)
	return kib
}

// idleMemory is what stays resident of a peer while its command sleeps.
func idleMemory(b *testing.B, p *peer) (kib int) {
	line := p.line("idle", []string{"/bin/sh", "-c", "echo ready; exec /bin/sleep 1000"})
	cmd := exec.Command(line[0], line[1:]...)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	defer cmd.Wait()
	_, err = bufio.NewReader(out).ReadString('\n')
	must(b, err)
	var last int
	for pids := []int{cmd.Process.Pid}; len(pids) > 0; pids = pids[1:] {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
		for _, thread := range threads {
			for _, child := range readWords(thread) {
				pid, _ := strconv.Atoi(child)
				pids = append(pids, pid)
			}
		}
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pids[0])); string(comm) == "sleep\n" || string(comm) == "sh\n" {
			last = pids[0]
			continue
		}
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pids[0]))
		must(b, err)
		rss, _, _ := strings.Cut(statusField(string(rollup), "Rss"), " ")
		n, err := strconv.Atoi(rss)
		must(b, err)
		kib += n
	}
	if last == 0 {
		cmd.Process.Kill()
		b.Fatalf("%s: where is its command?", p.name)
	}
	unix.Kill(last, unix.SIGKILL)
	return kib
}

// startRate is how many containers a second start and end, so many of them at once.
func startRate(b *testing.B, p *peer, atOnce, starts int) float64 {
	var group sync.WaitGroup
	begin := time.Now()
	for worker := range atOnce {
		line := p.line(fmt.Sprint("rate", worker), []string{"/bin/true"})
		group.Go(func() {
			for range starts / atOnce {
				if output, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
					b.Errorf("%s, %d at once: %v: %s", p.name, atOnce, err, output)
				}
			}
		})
	}
	group.Wait()
	return float64(starts) / time.Since(begin).Seconds()
}

// callCosts measures, in the container, a system call whose number is all that a filter looks at, and one whose argument it looks at, in ns.
func callCosts(b *testing.B, p *peer) (calls, looks float64) {
	line := p.line("calls", []string{"/bin/env", probeVariable + "=calls", "/bin/probe"})
	cmd := exec.Command(line[0], line[1:]...)
	var out bytes.Buffer
	cmd.Stdout = &out
	must(b, cmd.Run())
	_, err := fmt.Sscan(out.String(), &calls, &looks)
	must(b, err)
	return calls, looks
}

// timeCalls is the other end of it: the best of ten, as whatever else happens only makes it slower.
func timeCalls() {
	for _, call := range [][2]uintptr{{unix.SYS_GETPPID, 0}, {unix.SYS_IOCTL, ^uintptr(0)}} {
		best := time.Hour
		for range 10 {
			const times = 100_000
			begin := time.Now()
			for range times {
				unix.RawSyscall(call[0], call[1], 0, 0)
			}
			best = min(best, time.Since(begin)/(times/1000))
		}
		fmt.Println(float64(best.Nanoseconds()) / 1000)
	}
}

// A column is what is measured, and how it is written.
type column struct {
	name   string
	value  func(*peer) float64
	format string
}

var columns = []column{
	{"start to exit, median", func(p *peer) float64 { return p.times[len(p.times)/2] * 1000 }, "%.1f ms"},
	{"99th percentile", func(p *peer) float64 { return p.times[len(p.times)*99/100] * 1000 }, "%.1f ms"},
	{"peak memory", func(p *peer) float64 { return float64(p.peak) / 1024 }, "%.1f MiB"},
	{"memory while idle", func(p *peer) float64 { return float64(p.idle) / 1024 }, "%.1f MiB"},
	{"binary", binarySize, "%.1f MiB"},
	{"starts a second", func(p *peer) float64 { return p.rate[1] }, "%.0f"},
	{"8 at once", func(p *peer) float64 { return p.rate[8] }, "%.0f"},
	{"64 at once", func(p *peer) float64 { return p.rate[64] }, "%.0f"},
	{"getppid", func(p *peer) float64 { return p.calls }, "%.0f ns"},
	{"ioctl", func(p *peer) float64 { return p.looks }, "%.0f ns"},
}

func binarySize(p *peer) float64 {
	path, _ := exec.LookPath(p.program)
	stat, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(stat.Size()) / (1 << 20)
}

// tables are what was measured, and the ratios to the first of them, which is barco.
func tables(all []*peer) string {
	var out strings.Builder
	first := all[0]
	emulated := os.Getenv(initramfsVariable) != ""
	for _, ratios := range []bool{false, true} {
		if emulated && !ratios { // its figures say nothing about any machine
			continue
		}
		out.WriteString("| |")
		for _, c := range columns {
			out.WriteString(" " + c.name + " |")
		}
		out.WriteString("\n|" + strings.Repeat(" --- |", len(columns)+1) + "\n")
		for _, p := range all {
			fmt.Fprintf(&out, "| %s |", p.name)
			if p.cannot != "" {
				fmt.Fprintf(&out, " cannot run here: %s |\n", p.cannot)
				continue
			}
			for _, c := range columns {
				if ratios {
					fmt.Fprintf(&out, " %.2f |", c.value(p)/c.value(first))
				} else {
					fmt.Fprintf(&out, " "+c.format+" |", c.value(p))
				}
			}
			out.WriteString("\n")
		}
		out.WriteString("\n")
	}
	byName := map[string]*peer{}
	for _, p := range all {
		if p.cannot == "" {
			byName[p.name] = p
		}
	}
	for _, t := range targets {
		if p := byName[t.peer]; p != nil {
			c := columns[slices.IndexFunc(columns, func(c column) bool { return c.name == t.column })]
			ratio := c.value(first) / c.value(p)
			verdict := "holds"
			if t.more && ratio < t.limit || !t.more && ratio > t.limit {
				verdict = "MISSED"
			}
			fmt.Fprintf(&out, "%s of %s: %.2f, %s (%s %.2f)\n", t.column, t.peer, ratio, verdict, map[bool]string{true: "at least", false: "at most"}[t.more], t.limit)
		}
	}
	return out.String()
}

// targets are what barco's figures may be, as ratios to a peer's.
var targets = []struct {
	column, peer string
	limit        float64
	more         bool // is better
}{
	{"start to exit, median", "bubblewrap", 1.6, false},
	{"start to exit, median", "crun", 0.9, false},
	{"start to exit, median", "runc", 0.25, false},
	{"peak memory", "runc", 0.25, false},
	{"64 at once", "crun", 1, true},
	{"getppid", "runc", 1.1, false}, // a tenth is noise
}
