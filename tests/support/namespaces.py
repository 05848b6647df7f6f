"""Machines of a small network: network namespaces on a bridge in another one, with links that can
be cut. Nothing of this machine's own network is touched; it needs root, iproute2 and iptables."""
import os
import shutil
import subprocess
import time

import runs

SHELL = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'  # of its own, as on a machine of its own


def missing():
    """Why there can be no such network, or None."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            return f"needs {program}: apt-get install iproute2 iptables"
    probe = f"lkt{os.getpid()}-probe"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        return f"cannot make a network namespace: {done.stderr.strip()}"
    done = subprocess.run(["ip", "netns", "exec", probe, "iptables", "-w", "-S"],
                          capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None if done.returncode == 0 else f"iptables does not work: {done.stderr.strip()}"


class Network:
    """Machines by name; each has one address."""

    def __init__(self, names):
        self.tag = f"lkt{os.getpid()}"
        self.names = list(names)
        self.made = []

    def make(self):
        self._namespace("switch")
        self._in("switch", "ip", "link", "add", "name", "switch0", "type", "bridge")
        self._in("switch", "ip", "link", "set", "switch0", "up")
        for index, name in enumerate(self.names):
            self._namespace(name)
            self._in("switch", "ip", "link", "add", "name", f"p{index}", "type", "veth", "peer",
                     "name", "eth0", "netns", self.space(name))
            self._in("switch", "ip", "link", "set", f"p{index}", "master", "switch0", "up")
            self._in(name, "ip", "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            self._in(name, "ip", "link", "set", "eth0", "up")
            self._in(name, "ip", "link", "set", "lo", "up")

    def space(self, name):
        return f"{self.tag}-{name}"

    def _namespace(self, name):
        subprocess.run(["ip", "netns", "add", self.space(name)], check=True)
        self.made.append(name)

    def _in(self, name, *command):
        done = subprocess.run(["ip", "netns", "exec", self.space(name), *command],
                              capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def address(self, name):
        return f"10.0.0.{self.names.index(name) + 1}"

    def prefix(self, name):
        """What stands before a command that runs on that machine."""
        return ["ip", "netns", "exec", self.space(name), "sh", "-c", SHELL, "sh"]

    def lockstep(self, name, *arguments):
        done = subprocess.run([*self.prefix(name), runs.LOCKSTEP, *map(str, arguments)],
                              capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    def _rule(self, at, *rule):
        self._in(at, "iptables", "-w", *rule)

    def drop(self, sender, receiver):
        """What one sends to the other is lost; the other way it still goes."""
        self._rule(receiver, "-A", "INPUT", "-s", self.address(sender), "-j", "DROP")

    def cut(self, one, other):
        """Nothing goes between the two, either way."""
        self.drop(one, other)
        self.drop(other, one)

    def cut_off(self, name):
        """The machine's cable is out."""
        for chain, flag in (("INPUT", "-i"), ("OUTPUT", "-o")):
            self._rule(name, "-A", chain, flag, "eth0", "-j", "DROP")

    def heal(self):
        for name in self.names:
            self._rule(name, "-F")

    def reset(self, name, port, seconds=0.3):
        """Resets the TCP connections at a port of the machine that carry something meanwhile; the
        number of packets that were answered so."""
        reject = ["-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset"]
        self._rule(name, "-I", "INPUT", *reject)
        time.sleep(seconds)
        counts = self._in(name, "iptables", "-w", "-nvxL", "INPUT", "1").split()
        self._rule(name, "-D", "INPUT", *reject)
        return int(counts[0])

    def close(self):
        """Ends whatever still runs in it."""
        for name in reversed(self.made):
            pids = subprocess.run(["ip", "netns", "pids", self.space(name)], capture_output=True,
                                  text=True, check=False).stdout.split()
            for pid in map(int, pids):
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False)
        self.made = []
