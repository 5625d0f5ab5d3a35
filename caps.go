package main

import (
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Capabilities (capabilities(7)): root's power in pieces. All namespaces of the container belong to its own user namespace,
// so none of these reaches the host; what is dropped here is what root inside could use to undo the container itself, or
// to reach kernel code that few have looked at.
//
// Chapter: docs/08-capabilities.md

// kept is what the command may keep, and why it is harmless: what both Docker and the C original keep. All others go,
// those that this list's author never heard of included.
var kept = []struct {
	value cap.Value
	why   string
}{
	{cap.CHOWN, "give its own files to its own users"},
	{cap.DAC_OVERRIDE, "root inside reads and writes the files of every user inside"},
	{cap.FOWNER, "and changes their modes"},
	{cap.KILL, "and signals their processes, which are all inside the pid namespace"},
	{cap.SETGID, "become any group of the id map: su, login, daemons that give up root"},
	{cap.SETUID, "become any user of the id map"},
	{cap.SETPCAP, "give up more capabilities"},
	{cap.NET_BIND_SERVICE, "serve on ports below 1024 of its own network namespace"},
	{cap.NET_RAW, "ping, in its own network namespace"},
	{cap.SYS_CHROOT, "chroot further down its own tree"},
}

// keptCaps are the capabilities that the command keeps, as the bits that capset(2) takes.
func keptCaps(config *Config) (bits uint64) {
	for _, k := range kept {
		bits |= 1 << k.value
	}
	for _, value := range config.CapAdd {
		bits |= 1 << value
	}
	return bits
}

// dropCapabilities takes from this thread what the command may not have. The bounding set decides what an execve can give
// back, so it is first; ambient and inheritable are the two other ways through an execve (CVE-2022-24769). libcap changes every
// thread of the process, by signals; here only the thread that will call execve matters, and that is this one. Child.
func dropCapabilities(c *child) error {
	keep := keptCaps(&c.Config)
	info("dropping all capabilities but %d...", bits.OnesCount64(keep))
	for value := cap.Value(0); value < 64; value++ {
		if keep&(1<<value) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(value), 0, 0, 0)
		if err == unix.EINVAL && value > cap.CHECKPOINT_RESTORE { // the kernel knows no more; only it can say how many there are
			break
		}
		if err := sys(err, "prctl(PR_CAPBSET_DROP, %s)", value); err != nil {
			return err
		}
	}
	if err := sys(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)"); err != nil {
		return err
	}
	if c.UID != 0 {
		keep = 0 // an ordinary user holds none, only its set-user-ID programs can reach the bounding set
	}
	keep |= 1 << cap.SYS_ADMIN // seccomp(2) asks for it; it is out of the bounding set, so execve takes it
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32)},
	}
	return sys(unix.Capset(&header, &data[0]), "capset({effective=permitted=%#x, inheritable=0})", keep)
}

// setNoNewPrivs has no execve of the command's, or of what it starts, give it more than it has (PR_SET_NO_NEW_PRIVS(2const)), if
// --no-new-privs asks for that. It is the better choice for a command that needs no set-user-ID program of its own DIR: one
// layer more against a hole in any of them. It is not the default, as with it su, sudo and passwd stop working, and what such
// programs reach is bounded anyway: to the ids of the map, and to the capabilities above. Those of the host's own tree gain
// nothing either way: see bindRoot. Child.
func setNoNewPrivs(c *child) error {
	if !c.NoNewPrivs {
		return nil
	}
	info("forbidding set-user-ID programs to have an effect...")
	return sys(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS, 1)")
}

// capNames lists capabilities by name, without the prefix that they share.
func capNames(bits uint64) string {
	var names []string
	for value := range cap.MaxBits() {
		if bits&(1<<value) != 0 {
			names = append(names, strings.TrimPrefix(value.String(), "cap_"))
		}
	}
	return strings.Join(names, " ")
}
