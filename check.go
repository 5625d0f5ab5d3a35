package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// barco --check: is this machine able? One line for each thing that a container needs, found out by trying wherever trying
// leaves nothing behind, and last a rehearsal: the whole start of a container, but for execve.
//
// Chapter: docs/10-cgroups.md

// Verdicts, from good to bad; the worst one is barco's exit status.
const (
	verdictOK      = iota
	verdictLimited // the container starts, with less
	verdictMissing // it does not start
)

var verdictNames = [...]string{"ok", "limited", "missing"}

// A finding is one line of --check.
type finding struct {
	verdict int
	thing   string
	remedy  string // and whatever else goes on a line of its own
}

// oldestKernel has all that barco calls: mount_setattr is from 5.12, cgroup.kill from 5.14.
const oldestMajor, oldestMinor = 5, 14

// check prints what it finds and returns the exit status: 0 when the classic line will work in full, 1 with less, 2 when it cannot.
func check(signals chan os.Signal) (status int) {
	logLevel = levelError
	findings := slices.Concat(checkKernel(kernelRelease()), checkNamespaces(), checkSettings(),
		checkSurroundings(), checkCgroups(), checkSeccomp(), rehearse(signals))
	rehearsed := findings[len(findings)-1].verdict == verdictOK
	for _, f := range findings {
		if rehearsed {
			f.verdict = min(f.verdict, verdictLimited) // it does work, whatever a setting says
		}
		line := fmt.Sprintf("%-8s %s", verdictNames[f.verdict], f.thing)
		if f.remedy != "" {
			line += "\n         " + f.remedy
		}
		fmt.Println(line)
		status = max(status, f.verdict)
	}
	fmt.Println([...]string{
		"\nThe classic line will work in full: sudo ./barco -u 0 -m / -c /bin/sh",
		"\nThe classic line will work, with less than it could: see the lines that say limited.",
		"\nThe classic line cannot work here: see the lines that say missing.",
	}[status])
	return status
}

// kernelRelease is what `uname -r` prints (uname(2)).
func kernelRelease() string {
	var name unix.Utsname
	unix.Uname(&name)
	return unix.ByteSliceToString(name.Release[:])
}

// checkKernel looks at the kernel's release.
func checkKernel(release string) []finding {
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	f := finding{thing: "Linux " + release}
	if isWSL2(release) {
		f.thing += ", which is WSL2"
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		f.verdict, f.remedy = verdictMissing, fmt.Sprintf("barco needs Linux %d.%d or newer", oldestMajor, oldestMinor)
	}
	return []finding{f}
}

// isWSL2 recognises the kernel of the Windows Subsystem for Linux.
func isWSL2(release string) bool { return strings.Contains(strings.ToLower(release), "microsoft") }

// A setting is a sysctl, and its value for "off".
type setting struct {
	path, off string
	root      bool // root is affected too
	sentence  string
}

// isOff says whether the setting keeps this user from making user namespaces.
func (s setting) isOff() bool {
	return slices.Equal(readWords(procSys+s.path), []string{s.off}) && (s.root || unix.Geteuid() != 0)
}

// settings are the sysctls that administrators and distributions switch user namespaces off with.
var settings = []setting{
	{"user/max_user_namespaces", "0", true, "user.max_user_namespaces is 0, so nobody can make user namespaces: sysctl -w user.max_user_namespaces=15000"},
	{"kernel/unprivileged_userns_clone", "0", false, "kernel.unprivileged_userns_clone is 0 (Debian), so only root can make user namespaces: sudo barco ..., or sysctl -w kernel.unprivileged_userns_clone=1"},
	{"kernel/apparmor_restrict_unprivileged_userns", "1", false, "kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu), which takes the powers out of ordinary users' user namespaces: sudo barco ..., or give barco an AppArmor profile with \"userns,\""},
}

// procSys is where the sysctls are; a test puts others there.
var procSys = "/proc/sys/"

// userNamespacesOff returns the sentence for the setting that keeps this user from making user namespaces, "" when none does.
func userNamespacesOff() string {
	for _, s := range settings {
		if s.isOff() {
			return s.sentence
		}
	}
	return ""
}

func checkNamespaces() (findings []finding) {
	for _, name := range []string{"user", "mnt", "pid", "ipc", "net", "uts", "cgroup"} {
		f := finding{thing: "namespaces: " + name}
		if _, err := os.Stat("/proc/self/ns/" + name); err != nil {
			f.verdict, f.remedy = verdictMissing, "this kernel was built without them, or /proc is not mounted"
		} else if slices.Equal(readWords(procSys+"user/max_"+name+"_namespaces"), []string{"0"}) {
			f.verdict, f.remedy = verdictMissing, fmt.Sprintf("user.max_%s_namespaces is 0: sysctl -w user.max_%s_namespaces=15000", name, name)
		}
		findings = append(findings, f)
	}
	return findings
}

// checkSettings reads the sysctls that switch user namespaces off.
func checkSettings() (findings []finding) {
	for _, s := range settings {
		value := readWords(procSys + s.path)
		f := finding{thing: strings.ReplaceAll(s.path, "/", ".") + " is " + strings.Join(value, " ")}
		switch {
		case len(value) == 0:
			f.thing = strings.ReplaceAll(s.path, "/", ".") + " is not on this kernel"
		case s.isOff():
			f.verdict, f.remedy = verdictMissing, s.sentence
		}
		findings = append(findings, f)
	}
	return findings
}

// checkSurroundings looks at who started barco: root or not, in a container or not.
func checkSurroundings() []finding {
	who := finding{thing: "started by root"}
	if uid := unix.Geteuid(); uid != 0 {
		who = finding{verdictLimited, fmt.Sprintf("started by uid %d, not by root", uid), "one id inside instead of 65536: sudo barco ..."}
	}
	where := finding{thing: "not inside a container"}
	if name := outerContainer(); name != "" {
		where.thing = "inside a container, by the look of " + name
		if status, _ := readFile("/proc/self/status"); strings.Contains(status, "Seccomp:\t2") {
			where.thing += ", with a seccomp filter"
		}
	}
	return []finding{who, where}
}

// outerContainer returns the trace by which a container can be recognised from inside, "" without one.
func outerContainer() string {
	for _, path := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("container") != "" {
		return "the variable container=" + os.Getenv("container")
	}
	return ""
}

func checkCgroups() (findings []finding) {
	above, err := cgroupAbove()
	if err != nil {
		return []finding{{verdictLimited, "cgroup v2: " + err.Error(), ""}}
	}
	group, obstacle := newCgroup(above)
	defer group.remove()
	f := finding{thing: "cgroup v2, below " + above + map[bool]string{true: ", as root", false: ", which is delegated to you"}[unix.Geteuid() == 0]}
	if obstacle != nil {
		f = finding{verdictLimited, "cgroup v2: no cgroup can be made", obstacle.Error()}
	}
	findings = append(findings, f)
	for _, c := range controllers(&Config{}) {
		f := finding{thing: fmt.Sprintf("controller %s, for %s", c.name, c.file)}
		err := obstacle
		if err == nil {
			err = enableController(above, c.name)
		}
		if err != nil {
			f.verdict, f.remedy = verdictLimited, err.Error()
		}
		findings = append(findings, f)
	}
	return findings
}

func checkSeccomp() []finding {
	major, minor, micro := libseccomp.GetLibraryVersion()
	f := finding{thing: fmt.Sprintf("seccomp filters, libseccomp %d.%d.%d", major, minor, micro)}
	if len(readWords(procSys+"kernel/seccomp/actions_avail")) == 0 {
		f.verdict, f.remedy = verdictMissing, "this kernel was built without CONFIG_SECCOMP_FILTER"
	}
	return []finding{f}
}

// rehearse starts a container on / and ends it where it would execute its command.
func rehearse(signals chan os.Signal) []finding {
	config := &Config{
		Rehearsal: true, Quiet: true,
		Root: "/", Argv: bytesTexts([]string{"rehearsal"}), Workdir: "/", Hostname: "rehearsal",
		Memory: limit{Max: math.MaxInt64}, Weight: limit{Max: math.MaxInt64}, Pids: limit{Max: math.MaxInt64}, // checkCgroups has seen to those
	}
	config.chooseIDs()
	_, err := run(config, signals)
	failure := (*Failure)(nil)
	if errors.As(err, &failure) {
		return []finding{{verdictMissing, "rehearsal: " + err.Error(), failure.hint()}}
	}
	if err != nil {
		return []finding{{verdictMissing, "rehearsal: " + err.Error(), ""}}
	}
	var done []string
	for _, s := range childStory {
		if !slices.Contains([]string{"parent's death", "bind", "/tmp", "terminal", "no new privileges", "execve"}, s.name) {
			done = append(done, s.name)
		}
	}
	var lines []string
	for names := range slices.Chunk(done, 5) {
		lines = append(lines, strings.Join(names, ", "))
	}
	return []finding{{verdictOK, "rehearsal of a whole start, up to execve:", strings.Join(lines, ",\n         ")}}
}
