"""The coordinator dies and comes back, everything dies and goes on; the bits stay."""
import os
import signal
import time

import faults
import runs
from faults import EPOCHS, JOB, STEPS, STEPS_PER_EPOCH, step_of, wait_for_step


class CoordinatorTest(faults.FaultTest):
    def start_cluster(self, *arguments, nodes=2):
        self.run_folder = self.output()
        self.arguments = ["--nodes", nodes, "--state", self.folder / "state", *arguments]
        coordinator, address = self.start_coordinator(self.run_folder, *self.arguments)
        started = [self.start_node(address, f"n{i}") for i in range(nodes)]
        wait_for_step(address, 5, coordinator)
        return coordinator, address, started

    def start_again(self, address):
        return self.start_coordinator(self.run_folder, *self.arguments,
                                      port=int(address.rsplit(":", 1)[1]))[0]

    def assert_followed(self, coordinator, nodes, terms):
        """The same nodes have finished under it, and nothing was computed twice."""
        report = self.assert_same(coordinator, self.run_folder)
        for node in nodes:
            self.assertEqual(node.finish(10)[0], 0, node.log())
        self.assertEqual(coordinator.count(rf"\(term {terms}\)"), 1, coordinator.log())
        self.assertEqual(report["restores"], [])
        self.assertEqual(report["recoveries"], [])
        return report

    def test_a_killed_coordinator_is_followed_again(self):
        ledger = self.folder / "ledger.jsonl"
        coordinator, address, nodes = self.start_cluster("--ledger", ledger)
        for _ in range(3):
            before = step_of(address)
            coordinator.kill()
            coordinator.stop()
            time.sleep(0.3)
            coordinator = self.start_again(address)
            wait_for_step(address, before + 10, coordinator)
        self.assert_followed(coordinator, nodes, 4)
        self.assert_ledger(ledger)

    def test_nodes_train_while_it_is_away(self):
        coordinator, address, nodes = self.start_cluster()
        wait_for_step(address, STEPS_PER_EPOCH + 3, coordinator)
        coordinator.kill()
        coordinator.stop()
        time.sleep(4)  # enough for the rest of the epoch, on a busy machine too
        again = self.start_again(address)
        resumed = again.wait_for(r"resumed from step (\d+)")
        self.assertGreaterEqual(int(resumed.group(1)), 2 * STEPS_PER_EPOCH - 1)
        self.assert_followed(again, nodes, 2)

    def test_killed_at_ends_of_epochs(self):
        coordinator, address, nodes = self.start_cluster()
        for epoch in (1, 3, EPOCHS):
            deadline = time.monotonic() + 30
            while not coordinator.count(rf"^Epoch {epoch}/"):
                self.assertLess(time.monotonic(), deadline, coordinator.log())
                time.sleep(0.0005)
            coordinator.kill()
            coordinator.stop()
            coordinator = self.start_again(address)
        report = self.assert_same(coordinator, self.run_folder)
        self.assertEqual(len(report["history"]["loss"]), EPOCHS)
        for node in nodes:
            self.assertEqual(node.finish(10)[0], 0, node.log())

    def test_it_and_a_node_at_once(self):
        coordinator, address, nodes = self.start_cluster("--lease", 1.5, nodes=3)
        wait_for_step(address, 30, coordinator)
        coordinator.kill()
        nodes[1].kill()
        coordinator.stop()
        again = self.start_again(address)
        self.start_node(address, "n3")
        report = self.assert_same(again, self.run_folder)
        self.assertEqual([lost["node"] for lost in report["recoveries"]], ["n1"], again.log())
        self.assertEqual(report["restores"], [])


class ResumeTest(faults.FaultTest):
    def kill_all(self, process):
        children = list(process.nodes().values())
        process.kill()
        process.stop()
        runs.wait_until(lambda: not any(map(runs.is_alive, children)), "the nodes end", 3)

    def test_everything_killed_again_and_again(self):
        ledger = self.folder / "ledger.jsonl"
        options = ["--ledger", ledger, "--checkpoint-every", "40steps"]
        process, output = self.start_train(*options, nodes=2)
        for step in (15, 90, 130):
            wait_for_step(process.address(), step, process)
            reached = step_of(process.address())
            self.kill_all(process)
            process = self.launch("train", "--resume", "--output", output, "--nodes", 2,
                                  "--devices", 1, *options)
            resumed = int(process.wait_for(r"resumed from step (\d+)").group(1))
            self.assertGreaterEqual(resumed, max(0, reached - 40), process.log())
        self.assert_same(process, output)
        self.assert_ledger(ledger)

    def test_other_recipes_and_more_epochs(self):
        job = [*JOB, "--epochs", "2"]
        process, output = self.start_train(job=job, nodes=1)
        wait_for_step(process.address(), 20, process)
        self.kill_all(process)
        other = ["--seed", "4", "--batch-size", "32", "--learning-rate", "0.5"]
        done = runs.run("train", "--resume", "--output", output, *other)
        self.assert_fails(done, 1, "another recipe", "seed: 3 there, 4 here",
                          "batch_size: 64 there, 32 here",
                          "optimizer.learning_rate: 0.001 there, 0.5 here")
        self.assert_fails(runs.run("train", *job, "--output", output), 1, "--resume")
        resumed = self.launch("train", "--resume", "--output", output, "--nodes", 2,
                              "--devices", 1)
        self.assert_same(resumed, output, job)
        self.assert_fails(runs.run("train", "--resume", "--output", output), 1, "completed")
        fewer = runs.run("train", "--resume", "--output", output, "--epochs", 1)
        self.assert_fails(fewer, 1, "epochs: 2 there, 1 here")
        longer = self.launch("train", "--resume", "--output", output, "--nodes", 2,
                             "--devices", 1, "--epochs", EPOCHS)
        report = self.assert_same(longer, output)
        self.assertEqual(len(report["history"]["loss"]), EPOCHS)
        self.assertEqual(report["steps"], STEPS)

    def test_a_signal_to_train_keeps_the_state(self):
        process, output = self.start_train(nodes=2)
        wait_for_step(process.address(), STEPS_PER_EPOCH + 5, process)
        process.kill(signal.SIGTERM)
        code, _, err = process.finish(10)
        self.assertEqual(code, 143)
        self.assertIn("--resume", err)
        resumed = self.launch("train", "--resume", "--output", output, "--nodes", 2,
                              "--devices", 1)
        self.assert_same(resumed, output)

    def test_a_second_coordinator_on_the_same_state(self):
        process, output = self.start_train(nodes=1)
        wait_for_step(process.address(), 5, process)
        done = runs.run("train", "--resume", "--output", output)
        self.assert_fails(done, 1, "in use by another process")
        os.kill(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    runs.main()
