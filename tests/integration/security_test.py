"""Strangers: who may join a job, and that all others change nothing, with TLS and without."""
import contextlib
import os
import pathlib
import shutil
import stat

import faults
import runs
from attacks import Strangers

SMALL = ["--model", "mlp", "--data", "digits:256", "--epochs", "2", "--batch-size", "32"]
MIDDLE = ["--model", "seed-cnn", "--data", "digits:3000", "--epochs", "2", "--batch-size", "64"]


def make_certificates(folder, job, *more):
    done = runs.run("certs", "--output", folder, "--job-name", job, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


class SecurityTest(faults.FaultTest):
    def certificates(self, job="test", *more):
        folder = self.folder / f"certificates-{job}"
        make_certificates(folder, job, *more)
        return folder

    def start_cluster(self, job, nodes, certificates=None, host="127.0.0.1", more=(), wanted=None):
        """(coordinator, nodes, its address, output folder); it begins with `wanted` nodes."""
        def tls(role):
            return ["--tls", certificates / role] if certificates else []
        output = self.output()
        coordinator, address = self.start_coordinator(
            output, "--nodes", wanted or nodes, *tls("coordinator"), *more, job=job, host=host)
        workers = [self.start_node(f"127.0.0.1:{address.rsplit(':', 1)[1]}", f"n{index}",
                                   *tls("node"), *more,
                                   data=job[job.index("--data") + 1]) for index in range(nodes)]
        return coordinator, workers, address, output

    def test_a_job_under_tls(self):
        certificates = self.certificates()
        make_certificates(self.folder / "other", "other")
        coordinator, workers, address, output = self.start_cluster(
            SMALL, 2, certificates, host="0.0.0.0")
        done = runs.run("node", "--coordinator", address.replace("0.0.0.0", "127.0.0.1"), "--tls",
                        self.folder / "other" / "node", "--connect-timeout", 5)
        self.assert_fails(done, 4, "certificate")
        self.assert_same(coordinator, output, SMALL)
        for worker in workers:
            self.assertEqual(worker.finish()[0], 0, worker.log())
        self.assertNotIn("warning", coordinator.log())
        for key in certificates.rglob("*.key"):
            self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
            secret = key.read_text().splitlines()[1]
            for process in [coordinator, *workers]:
                self.assertNotIn(secret, process.log())

    def test_who_is_refused_and_what_the_log_says(self):
        certificates = self.certificates()
        make_certificates(self.folder / "other", "test")  # the same name, its own authority
        coordinator, address = self.start_coordinator(
            self.output(), "--tls", certificates / "coordinator", "--nodes", 1, job=SMALL)
        coordinator.wait_for("waiting for")
        # It trusts the coordinator, which does not trust it.
        foreign = self.folder / "other" / "node"
        (foreign / "ca.crt").write_bytes((certificates / "node" / "ca.crt").read_bytes())
        done = runs.run("status", address, "--tls", foreign)
        self.assert_fails(done, 4, "certificate", "foreign")
        coordinator.wait_for("refused 127.0.0.1: .*foreign authority")
        done = runs.run("node", "--coordinator", address, "--tls", certificates / "operator",
                        "--data", "digits:256")
        self.assert_fails(done, 4, "for nodes", "operator")
        self.assert_fails(runs.run("status", address), 1, "connection lost")
        done = runs.run("node", "--coordinator", address, "--connect-timeout", 1)
        self.assert_fails(done, 1, "connection lost", "--tls")
        done = runs.run("status", address, "--tls", certificates / "operator")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_fails(runs.run("status", address, "--tls", self.folder), 1, "lockstep certs")

    def test_the_authority_is_replaced_while_a_job_runs(self):
        certificates = self.certificates()
        # One of two nodes: the job waits until the last move is made.
        coordinator, workers, address, output = self.start_cluster(SMALL, 1, certificates,
                                                                   wanted=2)
        old = self.folder / "old"
        shutil.copytree(certificates, old)
        coordinator.wait_for("joined")
        for move in (["--renew"], *(["--rotate", move] for move in ("trust", "issue", "retire"))):
            make_certificates(certificates, "test", *move)
            done = runs.run("status", address, "--tls", certificates / "operator")
            self.assertEqual(done.returncode, 0, f"{move}: {done.stderr}")
        coordinator.wait_for("new certificates in", times=4)
        done = runs.run("status", address, "--tls", old / "operator")
        self.assert_fails(done, 4, "foreign")
        workers.append(self.start_node(address, "late", "--tls", certificates / "node",
                                       data=SMALL[3]))
        self.assert_same(coordinator, output, SMALL)
        for worker in workers:
            self.assertEqual(worker.finish()[0], 0, worker.log())

    def test_without_certificates_only_loopback_listens(self):
        done = runs.run("coordinator", *SMALL, "--listen", "0.0.0.0:0", "--output", self.output())
        self.assert_fails(done, 2, "--listen 0.0.0.0:0", "--tls", "--insecure")
        coordinator, _, _, output = self.start_cluster(SMALL, 1, host="0.0.0.0",
                                                       more=["--insecure"])
        self.assert_same(coordinator, output, SMALL)
        self.assertIn("warning: 0.0.0.0", coordinator.log())

    def strangers_change_nothing(self, certificates):
        coordinator, workers, address, output = self.start_cluster(MIDDLE, 3, certificates)
        coordinator.wait_for("joined", times=3)
        addresses = [address, *self.data_ports(workers)]
        self.assertEqual(len(addresses), 4, addresses)
        with Strangers(addresses) as strangers:
            report = self.assert_same(coordinator, output, MIDDLE)
        self.assertGreater(strangers.connections, 1000)
        self.assertEqual(report["recoveries"], [])
        for worker in workers:
            self.assertEqual(worker.finish()[0], 0, worker.log())

    def data_ports(self, workers):
        """Where the processes listen, by the kernel's own table."""
        inodes = {}
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes[fields[9]] = int(fields[1].rsplit(":", 1)[1], 16)
        found = []
        for worker in workers:
            for descriptor in pathlib.Path(f"/proc/{worker.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    link = os.readlink(descriptor)
                    if link.startswith("socket:[") and link[8:-1] in inodes:
                        found.append(f"127.0.0.1:{inodes[link[8:-1]]}")
        return found

    def test_strangers_change_nothing_in_plain(self):
        self.strangers_change_nothing(None)

    def test_strangers_change_nothing_under_tls(self):
        self.strangers_change_nothing(self.certificates())


if __name__ == "__main__":
    runs.main()
