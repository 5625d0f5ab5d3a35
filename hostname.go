package main

import "golang.org/x/sys/unix"

// setHostname gives the container a name of its own (uts_namespaces(7), sethostname(2)). The host's does not change: clone
// made a new UTS namespace, which began as a copy of the host's. Child.
//
// Chapter: docs/04-hostname.md
func setHostname(c *child) error {
	info("setting the host name to %s...", c.Hostname)
	return sys(unix.Sethostname([]byte(c.Hostname)), "sethostname(%q)", c.Hostname)
}
