"""Links break, one way and both, in a network of namespaces; the bits stay."""
import json
import time

import faults
import namespaces
import runs
from faults import JOB

LONG = [*JOB, "--epochs", "9"]
PORT = 7070
DATA_PORT = 7100
MISSING = namespaces.missing()


class NetworkTest(faults.FaultTest):
    def setUp(self):
        if MISSING:
            self.skipTest(MISSING)
        super().setUp()
        self.network = namespaces.Network(["head", "n0", "n1", "n2"])
        self.addCleanup(self.network.close)
        self.network.make()
        self.head = f"{self.network.address('head')}:{PORT}"

    def start(self, *arguments, nodes=3, job=None):
        """Coordinator and nodes, each on its machine; in the steps when this returns."""
        self.run_folder = self.output()
        self.job = job or JOB
        self.coordinator, _ = self.start_coordinator(
            self.run_folder, "--nodes", nodes, "--insecure", *arguments, job=self.job, port=PORT,
            host=self.network.address("head"), prefix=self.network.prefix("head"))
        self.nodes = []
        for index in range(nodes):
            name = f"n{index}"
            self.nodes.append(self.start_node(
                self.head, name, "--insecure", "--listen",
                f"{self.network.address(name)}:{DATA_PORT}", prefix=self.network.prefix(name)))
            # Sessions, and with them who dials whom, are in the order of the names.
            self.coordinator.wait_for(f"node '{name}' joined")
        self.wait_for_step(10)

    def status(self):
        text = self.network.lockstep("head", "status", self.head, "--json")
        return json.loads(text) if text.startswith("{") else {}

    def wait_for_step(self, step, timeout=30):
        runs.wait_until(lambda: self.status().get("step", -1) >= step, f"step {step}", timeout)

    def go_on(self):
        self.wait_for_step(self.status().get("step", 0) + 3)

    def assert_recovered(self, *expelled):
        report = self.assert_same(self.coordinator, self.run_folder, self.job)
        self.assertEqual(sorted(lost["node"] for lost in report["recoveries"]), sorted(expelled),
                         self.coordinator.log())
        self.assertEqual(report["restores"], [])

    def seconds_until(self, pattern, timeout):
        """(seconds, the match)"""
        begin = time.monotonic()
        match = self.coordinator.wait_for(pattern, timeout=timeout)
        seconds = time.monotonic() - begin
        print(f"{seconds:.2f} s until '{match[0]}'", flush=True)
        return seconds, match

    def assert_one_expelled(self, *ends):
        """The name of the end of a broken link that went: the later one where both complain, but
        what was still under way when the link broke may spare one of them the complaint."""
        seconds, match = self.seconds_until(
            f"steps go on .* after node '({'|'.join(ends)})' died", 60)
        self.assertLess(seconds, 8)
        self.assert_recovered(match[1])
        return match[1]

    def test_a_cable_is_out(self):
        self.start("--lease", 2)
        self.network.cut_off("n1")
        seconds, _ = self.seconds_until("steps go on .* after node 'n1' died", 15)
        self.assertLess(seconds, 3)
        self.assert_recovered("n1")

    def test_a_link_between_two_nodes(self):
        self.start()
        self.network.cut("n0", "n1")
        expelled = self.assert_one_expelled("n0", "n1")
        code, _, err = self.nodes[int(expelled[1:])].finish(10)
        self.assertEqual(code, 1, err)
        self.assertIn("expelled", err)

    def test_one_way_between_two_nodes(self):
        self.start()
        self.network.drop("n0", "n2")
        self.assert_one_expelled("n0", "n2")

    def test_what_is_soon_over_expels_nobody(self):
        self.start(job=LONG)
        self.network.cut("n0", "n1")
        time.sleep(0.5)
        self.network.heal()
        self.go_on()
        for name in ("n0", "n1"):
            self.assertGreater(self.network.reset(name, DATA_PORT), 0, "no stream was reset")
            self.go_on()
        self.assert_recovered()

    def test_the_coordinators_connections_are_reset(self):
        self.start()
        self.assertGreater(self.network.reset("head", PORT, 0.05), 0, "nothing was reset")
        self.go_on()
        report = self.assert_same(self.coordinator, self.run_folder)
        self.assertEqual(report["restores"], [])


if __name__ == "__main__":
    runs.main()
