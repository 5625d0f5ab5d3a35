package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An error is part of the product: it names the step, the system call with what it was called on, and the errno, and adds
// the likely cause and the remedy wherever a user has been known to meet it (hints, below).
//
// Chapter: docs/04-hostname.md

// A Failure is why there is no container. It crosses the socket from child to parent whole, so that the parent's errors.Is still works.
type Failure struct {
	Step   string     // as in childStory, or the parent's own: "cgroup", "clone", ...
	Call   string     // the system call as the man page writes it, with its arguments
	Errno  unix.Errno // 0 when it is barco itself that refuses
	Reason string     // the sentence, when it is barco itself that refuses
	Hint   string     // the likely cause and the remedy
	Status int        // barco's exit status, when it is not 125
}

func (f *Failure) Error() string {
	text := f.Reason
	if f.Call != "" {
		text = f.Call + ": " + describe(f.Errno)
	}
	if f.Step != "" {
		text = f.Step + ": " + text
	}
	return text
}

func (f *Failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// sys is told of every system call that makes the container, with its result: it narrates the call under -v, and turns a
// refusal by the kernel into a Failure. It is used in one of two ways:
//
//	return sys(unix.Fchdir(fd), "fchdir(%d)", fd)
//
//	fd, err := unix.Open(path, ...)
//	if err := sys(err, "open(%q, ...) = %d", path, fd); err != nil {
//		return err
//	}
func sys(err error, call string, args ...any) error {
	if err == nil && logLevel > levelDebug {
		return nil
	}
	call, result, ok := strings.Cut(call, " = ")
	if err == nil {
		if !ok {
			result = "0"
		}
		logLine(levelDebug, 2, call+" = "+result, args...)
		return nil
	}
	if ok {
		args = args[:len(args)-1] // it has no result
	}
	failure := failed(err, call, args...)
	logLine(levelDebug, 2, "%s = -1 %s", failure.Call, unix.ErrnoName(failure.Errno))
	return failure
}

// failed is the Failure that sys makes, for what is no part of the story.
func failed(err error, call string, args ...any) *Failure {
	failure := &Failure{Call: fmt.Sprintf(call, args...)}
	if !errors.As(err, &failure.Errno) {
		failure.Reason, failure.Call = fmt.Sprintf("%s: %v", failure.Call, err), ""
	}
	return failure
}

// at is a directory argument the way strace(1) writes it.
type at int

func (dir at) String() string {
	if dir == unix.AT_FDCWD {
		return "AT_FDCWD"
	}
	return strconv.Itoa(int(dir))
}

// refuse is an error that barco finds by itself, before or instead of asking the kernel.
func refuse(format string, args ...any) *Failure {
	return &Failure{Reason: fmt.Sprintf(format, args...)}
}

// in adds the step to an error that has none yet.
func in(step string, err error) error {
	failure := (*Failure)(nil)
	if err == nil || !errors.As(err, &failure) {
		return err
	}
	if failure.Step == "" {
		failure.Step = step
	}
	return failure
}

// describe writes an errno in words and by name: "permission denied (EACCES)".
func describe(errno unix.Errno) string {
	return fmt.Sprintf("%s (%s)", errno.Error(), unix.ErrnoName(errno))
}

// report is what the user reads when err has ended the run.
func report(err error) string {
	text := "barco: " + err.Error()
	failure := (*Failure)(nil)
	if errors.As(err, &failure) {
		if hint := failure.hint(); hint != "" {
			text += "\nbarco: hint: " + hint
		}
		layered := func(s step) bool { return s.name == failure.Step && s.layer != "" }
		if slices.Contains([]string{"clone", "cgroup", "id map"}, failure.Step) || slices.ContainsFunc(childStory, layered) {
			text += "\nbarco: run barco --check to see what this machine is able to do"
		}
	}
	return text
}

// hints say what usually lies behind an errno of a call, and what to do. Rows are found by how the call begins; the first that fits is taken.
var hints = []struct {
	call  string
	errno unix.Errno
	text  string
}{
	{"clone", unix.EPERM, "making namespaces needs CAP_SYS_ADMIN and a seccomp filter that lets it through; inside a container, that one likely needs --privileged"},
	{"clone", unix.ENOSPC, "likely no namespace of one kind is left: look at the limits in /proc/sys/user/max_*_namespaces, and raise the one that is reached"},
	{"clone", unix.EUSERS, "user namespaces are nested too deep: 32 is the kernel's limit"},
	{"clone", unix.EINVAL, "this kernel likely lacks one of these namespaces: ls /proc/self/ns shows those it has"},
	{"clone", unix.EAGAIN, "too many processes: look at ulimit -u, and at pids.max in the cgroup that barco was started in"},
	{"clone", unix.EACCES, "barco's own file must be executable by all, as the child starts without any capability: chmod 755 it"},
	{"clone", unix.ENOENT, "barco starts itself again by way of /proc/self/fd: /proc is likely not mounted here"},
	{"open(\"/proc/self/", unix.ENOENT, "/proc is not mounted here: mount -t proc proc /proc"},
	{"", unix.EMFILE, "barco may not open enough files: raise the limit with ulimit -n"},
	{"mkdirat", unix.ENOENT, "this mount point is missing in DIR, which is no place for a root filesystem"},
	{"mkdirat", unix.EROFS, "this mount point is missing in DIR and cannot be made, DIR is read-only: make it where DIR can be written"},
	{"mkdirat", unix.EACCES, "this mount point is missing in DIR, and you may not make it: mkdir it as DIR's owner, or use sudo"},
	{"mount_setattr", unix.EINVAL, "likely the filesystem that DIR is on, or one that is mounted below it, cannot shift owners: Linux can on ext4, xfs, btrfs and f2fs, on tmpfs from 6.3, not on overlayfs or proc; umount what is below, leave out --idmap, or copy DIR"},
	{"fsconfig", unix.EINVAL, "likely other filesystems are mounted in DIR: without root the kernel lets no overlay uncover what is below them; leave out --overlay, or use sudo"},
	{"fsconfig", unix.ENODEV, "this kernel has no such filesystem: modprobe it, or leave out what asks for it"},
	{"openat2", unix.ELOOP, "a mount point inside DIR is a symbolic link, which could lead anywhere: replace it by a directory"},
	{"openat2", unix.ENOTDIR, "a mount point inside DIR is not a directory: replace it by one"},
	{"openat2", unix.ENOSYS, "likely barco runs inside a container whose seccomp filter hides this call, as barco's own does: that container needs --skip seccomp, or Docker's --privileged"},
	{"openat2", unix.EACCES, "the container may not enter DIR, or a directory above it: what is not root's own needs its r and x bits for others (chmod o+rx)"},
	{"fsmount", unix.EPERM, "the kernel lets a new mount show no more of this filesystem than the one barco sees (\"mount too revealing\"): likely barco runs in a container that masks it, and that container needs --privileged (Docker: or --security-opt systempaths=unconfined)"},
	{"pivot_root", unix.EINVAL, "the present root likely is the initramfs, which cannot be pivoted away from: run barco on a mounted root"},
	{"write uid_map", unix.EPERM, "barco is root, but not over these host ids: likely it runs in a user namespace that lacks them (cat /proc/self/uid_map), or without CAP_SETUID; an ordinary user can run barco outside of it"},
	{"write gid_map", unix.EPERM, "barco is root, but not over these host ids: likely it runs without CAP_SETGID"},
	{"chdir", unix.ENOENT, "--workdir does not exist inside DIR"},
	{"chdir", unix.ENOTDIR, "--workdir is not a directory"},
	{"execve", unix.E2BIG, "the arguments and the environment together are too long: see getconf ARG_MAX"},
}

func (f *Failure) hint() string {
	if f.Hint != "" || f.Errno == 0 {
		return f.Hint
	}
	// The first calls that need powers in the new user namespace: a setting of the machine's may have kept them from us.
	first := []string{"clone(", "unshare(", "sethostname(", "mount(", "write setgroups:", "write uid_map:", "write gid_map:"}
	isThis := func(call string) bool { return strings.HasPrefix(f.Call, call) }
	if slices.ContainsFunc(first, isThis) && slices.Contains([]unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSPC}, f.Errno) {
		if off := userNamespacesOff(); off != "" {
			return off
		}
	}
	for _, h := range hints {
		if strings.HasPrefix(f.Call, h.call) && h.errno == f.Errno {
			return h.text
		}
	}
	return ""
}
