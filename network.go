package main

import "golang.org/x/sys/unix"

// bringUpLoopback switches on lo, the only interface of a new network namespace (network_namespaces(7), netdevice(7)).
// It starts down, and programs that talk to themselves over 127.0.0.1 are surprised by that. Child.
//
// Chapter: docs/11-network.md
func bringUpLoopback(*child) error {
	info("bringing up lo, the only network interface...")
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // any socket: it only carries the ioctl
	if err := sys(err, "socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0) = %d", socket); err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return sys(unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo), "ioctl(%d, SIOCSIFFLAGS, {lo, IFF_UP})", socket)
}
