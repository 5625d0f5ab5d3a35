package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The user namespace (user_namespaces(7)): root inside is an ordinary, powerless user outside. The child is born in it
// without any ids; only the parent, who has CAP_SETUID outside, can say which host ids the inside ones stand for.

// hostIDs is the first host id of the map: the first that systemd's documentation sets aside for containers. idCount is how many follow.
const (
	hostIDs = 524288
	idCount = 65536
)

// askForIDMap asks the parent to write the id maps, and waits until it has. Child.
func askForIDMap(c *child) error {
	info("asking the parent to map user and group ids...")
	if err := c.send(messageMapIDs, nil); err != nil {
		return err
	}
	got, err := c.receive()
	if err != nil {
		return err
	}
	if got.kind != messageMapped {
		return refuse("barco itself is gone")
	}
	return nil
}

// writeIDMaps maps the container's ids, 0 to 65535, to host ids that belong to nobody. The pid cannot have gone to another
// process: it stays the child's until the parent has waited for it. Parent.
func writeIDMaps(config *Config, pid int) error {
	if config.skips("userns") {
		return nil
	}
	line := fmt.Sprintf("%d %d %d\n", 0, hostIDs, idCount) // inside, outside, length
	info("mapping ids: 0 to %d inside are %d to %d outside", idCount-1, hostIDs, hostIDs+idCount-1)
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := writeExisting(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/%s", pid, name), line); err != nil {
			return in("id map", err)
		}
	}
	return nil
}

// becomeUser takes on the ids that the command will have, and none of the groups that barco was started with
// (CVE-2022-36109 was a group too many). Raw system calls: the library's would stop all threads and change the ids of each,
// but only this one will call execve. Child.
func becomeUser(c *child) error {
	info("becoming uid and gid %d...", c.UID)
	id := uintptr(c.UID)
	group := uint32(c.UID)
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0)
	if err := sys(errnoOrNil(errno), "setgroups(1, [%d])", group); err != nil {
		return err
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, id, id, id)
	if err := sys(errnoOrNil(errno), "setresgid(%d, %d, %d)", id, id, id); err != nil {
		return err
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, id, id, id)
	if err := sys(errnoOrNil(errno), "setresuid(%d, %d, %d)", id, id, id); err != nil {
		return err
	}
	return dieWithParent(c)
}

// errnoOrNil is the error of a raw system call, which is nil when the call has succeeded.
func errnoOrNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
