"""Nodes are killed, stopped, started and sent away; the bits stay."""
import os
import random
import signal
import time

import faults
import runs
from faults import LEASE, STEPS, wait_for_step

SEED = random.SystemRandom().randrange(1 << 30)


class NodesOfTrainTest(faults.FaultTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        print(f"seed {SEED}", flush=True)

    def test_a_killed_node(self):
        ledger = self.folder / "ledger.jsonl"
        process, output = self.start_train("--ledger", ledger)
        address = process.address()
        wait_for_step(address, self.random.randrange(1, STEPS // 2), process)
        name, pid = self.random.choice(sorted(process.nodes().items()))
        os.kill(pid, signal.SIGKILL)
        process.wait_for(rf"node '{name}' joined", 2)
        report = self.assert_same(process, output)
        self.assertEqual([lost["node"] for lost in report["recoveries"]], [name])
        self.assertLessEqual(report["recoveries"][0]["partition_steps_again"], 3)
        self.assertEqual(len(report["nodes"]), 4)
        self.assertEqual(report["restores"], [])
        self.assert_ledger(ledger)

    def test_two_nodes_at_once_and_again(self):
        process, output = self.start_train()
        address = process.address()
        for step in (20, STEPS // 2):
            wait_for_step(address, step, process)
            for name, pid in self.random.sample(sorted(process.nodes().items()), 2):
                os.kill(pid, signal.SIGKILL)
        report = self.assert_same(process, output)
        self.assertGreaterEqual(len(report["recoveries"]), 4)

    def test_all_nodes_at_once(self):
        process, output = self.start_train("--checkpoint-every", "20steps")
        wait_for_step(process.address(), 110, process)
        for pid in process.nodes().values():
            os.kill(pid, signal.SIGKILL)
        report = self.assert_same(process, output)
        # A node that comes before another has its state makes them all load it once more.
        self.assertGreaterEqual(len(report["restores"]), 1, report)
        self.assertEqual(len({each["step"] for each in report["restores"]}), 1, report)
        self.assertGreaterEqual(report["restores"][0]["step"], 80)

    def test_a_stopped_node(self):
        process, output = self.start_train(*LEASE)
        wait_for_step(process.address(), 30, process)
        pid = process.nodes()["node-1"]
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(faults.end_all, [pid])
        process.wait_for(r"node 'node-1' died at step \d+: it gave no sign of life", timeout=10)
        process.wait_for(r"steps go on .* after node 'node-1' died")
        os.kill(pid, signal.SIGCONT)
        process.wait_for("node-1: .*(unknown session|expelled)", timeout=10)
        report = self.assert_same(process, output)
        self.assertEqual([lost["node"] for lost in report["recoveries"]], ["node-1"])
        self.assertLess(report["recoveries"][0]["seconds"], 2.5)


class NodesByHandTest(faults.FaultTest):
    def test_a_killed_node_and_a_new_one(self):
        output = self.output()
        coordinator, address = self.start_coordinator(output, "--nodes", 3)
        nodes = [self.start_node(address, f"n{i}") for i in range(3)]
        wait_for_step(address, 20, coordinator)
        nodes[0].kill()
        coordinator.wait_for("steps go on .* after node 'n0' died")
        replacement = self.start_node(address, "n3")
        coordinator.wait_for("node 'n3' joined")
        report = self.assert_same(coordinator, output)
        self.assertEqual([lost["node"] for lost in report["recoveries"]], ["n0"])
        entry = [node for node in report["nodes"] if node["name"] == "n3"][0]
        self.assertGreater(entry["partition_steps"], 0)
        for node in [*nodes[1:], replacement]:
            self.assertEqual(node.finish(10)[0], 0, node.log())

    def test_one_four_two(self):
        output = self.output()
        ledger = self.folder / "ledger.jsonl"
        coordinator, address = self.start_coordinator(output, "--nodes", "1:4", "--ledger", ledger)
        nodes = [self.start_node(address, "n0")]
        wait_for_step(address, 10, coordinator)
        nodes += [self.start_node(address, f"n{i}") for i in range(1, 4)]
        runs.wait_until(lambda: members(address) == 4, "four members")
        wait_for_step(address, faults.step_of(address) + 10, coordinator)
        for node in nodes[:2]:
            node.kill(signal.SIGTERM)
        for node in nodes[:2]:
            self.assertEqual(node.finish(10)[0], 143, node.log())
        report = self.assert_same(coordinator, output)
        self.assertEqual(report["recoveries"], [])
        self.assertEqual(report["restores"], [])
        left = [node["left"] for node in report["nodes"] if node["name"] in ("n0", "n1")]
        self.assertEqual(left, ["left", "left"])
        self.assert_ledger(ledger)
        for node in nodes[2:]:
            self.assertEqual(node.finish(10)[0], 0, node.log())

    def test_a_second_interrupt_ends_a_node_that_waits(self):
        coordinator, address = self.start_coordinator(self.output(), "--nodes", 1)
        node = self.start_node(address, "n0")
        wait_for_step(address, 3, coordinator)
        coordinator.kill(signal.SIGSTOP)
        node.kill(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(node.process.poll(), node.log())
        node.kill(signal.SIGINT)
        self.assertEqual(node.finish(2)[0], -signal.SIGINT, node.log())

    def test_the_last_node_hands_over_through_a_checkpoint(self):
        output = self.output()
        coordinator, address = self.start_and_leave(output, 60)
        self.start_node(address, "n1")
        report = self.assert_same(coordinator, output)
        self.assertGreaterEqual(report["restores"][0]["step"], 60)


def members(address):
    said = faults.status(address) or {}
    return len(said.get("members", [])) if said.get("phase") == "training" else 0


if __name__ == "__main__":
    runs.main()
