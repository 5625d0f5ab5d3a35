package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Many containers: nothing of them stays behind, and one does not wear out while others come and go.

// whole says whether `make torture` asks for the whole of what `make test` does a sample of.
func whole() bool { return os.Getenv("BARCO_TORTURE") != "" }

// namespaces returns all namespaces that a process is in, as lsns(8) does.
func namespaces() (all []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, path := range paths {
		if to, err := os.Readlink(path); err == nil && ours(filepath.Dir(filepath.Dir(path))+"/status") {
			all = append(all, to)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// startMany starts containers, some at a time, of which every tenth fails, and checks the status of each.
func startMany(t *testing.T, starts, atOnce int) {
	root := busyboxRoot(t)
	work := make(chan int)
	var wait sync.WaitGroup
	for range atOnce {
		wait.Go(func() {
			for i := range work {
				args := []string{"-q", "-m", root, "-u", strconv.Itoa(i), "-c", "/bin/sh", "--", "-c", "exit " + strconv.Itoa(i%100)}
				want := i % 100
				if i%10 == 9 {
					args[6], want = "/no/such", statusNotFound // failures leave nothing either
				}
				cmd := command(args...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				cmd.Run()
				if got := cmd.ProcessState.ExitCode(); got != want {
					t.Errorf("start %d: status %d, want %d: %s", i, got, want, stderr.String())
				}
			}
		})
	}
	for i := range starts {
		work <- i
	}
	close(work)
	wait.Wait()
}

func TestNothingLeftBehind(t *testing.T) {
	starts, atOnce := 200, 20
	if whole() {
		starts, atOnce = 1000, 50
	}
	before, namespacesBefore := hostState(), namespaces()
	startMany(t, starts, atOnce)
	sameHost(t, before)
	left := slices.DeleteFunc(namespaces(), func(ns string) bool { return slices.Contains(namespacesBefore, ns) })
	if len(left) > 0 {
		t.Errorf("namespaces left behind: %v", left)
	}
	fmt.Printf("load: %d starts, %d at once: %d namespaces before, none more after\n", starts, atOnce, len(namespacesBefore))
}

// A barco is no larger after hundreds of others have come and gone, and its container has noticed nothing.
func TestOneThatStays(t *testing.T) {
	others := 50
	if whole() {
		others = 500
	}
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "echo ready; while read x; do echo $x; done")
	stdin, stdout := start(t, cmd)
	size := func() (descriptors, threads, kilobytes int) {
		proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
		names, err := os.ReadDir(proc + "fd")
		must(t, err)
		status, err := os.ReadFile(proc + "status")
		must(t, err)
		fmt.Sscan(statusField(string(status), "Threads"), &threads)
		fmt.Sscan(statusField(string(status), "VmRSS"), &kilobytes)
		return len(names), threads, kilobytes
	}
	descriptors, threads, kilobytes := size()
	startMany(t, others, 10)
	fmt.Fprintln(stdin, "still here")
	if line, _ := stdout.ReadString('\n'); line != "still here\n" {
		t.Errorf("it said %q", line)
	}
	descriptors2, threads2, kilobytes2 := size()
	if descriptors2 != descriptors || threads2 > threads+2 || kilobytes2 > kilobytes+1024 {
		t.Errorf("before: %d descriptors, %d threads, %d KiB; after: %d, %d, %d", descriptors, threads, kilobytes, descriptors2, threads2, kilobytes2)
	}
	fmt.Printf("load: after %d others, %d KiB instead of %d, %d descriptors as before\n", others, kilobytes2, kilobytes, descriptors)
}

// Capabilities, filters and identity belong to threads, and Go's runtime moves between them whenever it collects garbage: the
// command is contained the same in every start.
func TestSameEveryTime(t *testing.T) {
	starts := 40
	if whole() {
		starts = 200
	}
	root := busyboxRoot(t)
	first := ""
	for i := range starts {
		cmd := command("-q", "-m", root, "-u", "1000", "-c", "/bin/cat", "--", "/proc/self/status", "/proc/self/uid_map", "/proc/self/mountinfo")
		cmd.Env = append(cmd.Env, "GOGC=1")
		got := containment(finish(t, cmd).stdout)
		if i == 0 {
			first = got
		}
		if got != first || !strings.Contains(got, "Seccomp:\t2\n") {
			t.Fatalf("start %d: got\n%s\nwant\n%s", i, got, first)
		}
	}
}

// containment is what the output of cat shows of how it is contained: numbers that are new in each run left out.
func containment(output string) string {
	const constant = "Umask Tgid Pid PPid Uid Gid Groups NSpid NSpgid NSsid SigBlk SigIgn ShdPnd CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters 0"
	var lines []string
	for line := range strings.Lines(output) {
		if fields := strings.Fields(line); len(fields) > 6 && strings.Contains(line, " - ") {
			line = fields[4] + " " + fields[5] + "\n" // a line of mountinfo
		}
		if name, _, ok := strings.Cut(line, ":"); !ok || slices.Contains(strings.Fields(constant), name) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
