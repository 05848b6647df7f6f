"""Processes die, and the job goes on to the same bits; signals end all processes."""
import os
import signal
import sys
import time

import faults
import runs
from runs import children_of, finish, is_alive, start, wait_until

LONG = ["--model", "seed-cnn", "--data", "digits:2000", "--epochs", "1000", "--devices", "1"]
SHORT = ["--model", "seed-cnn", "--data", "digits:2000", "--epochs", "4"]


class FaultsTest(runs.RunTest):
    def start_training(self, nodes=2):
        """A run whose nodes are training: (process, children, output folder)."""
        output = self.output()
        process = start("train", *LONG, "--nodes", nodes, "--output", output)
        self.addCleanup(runs.stop_processes, process)
        log = self.read_until(process, "memory plan", nodes)
        children = children_of(process.pid)
        self.assertEqual(len(children), nodes, log)
        time.sleep(0.5)  # into the steps
        return process, children, output

    def read_until(self, process, word, times):
        log = ""
        while log.count(word) < times:
            line = process.stderr.readline()
            self.assertTrue(line, log)
            log += line
        return log

    def assert_gone(self, children):
        wait_until(lambda: not any(is_alive(child) for child in children), "children end", 2)

    def test_a_killed_node_changes_no_bit(self):
        expected = faults.reference(SHORT)
        for number in (0, 1):
            output = self.output()
            process = self.start_short(output, 2)
            os.kill(children_of(process.pid)[number], signal.SIGKILL)
            code, out, err = finish(process)
            self.assertEqual(code, 0, err)
            self.assertEqual(runs.sha256_of(out), expected)
            self.assertRegex(err, rf"node 'node-{number}' died at step \d+: .*; 1 node goes on")
            self.assertRegex(err, rf"steps go on [\d.]+ s after node 'node-{number}' died")
            report = self.report(output)
            self.assertEqual(report["samples_consumed"], report["samples_assigned"])
            self.assertEqual([r["node"] for r in report["recoveries"]], [f"node-{number}"])
            self.assertIn("the same bits for all", runs.run("diff", output, output).stdout)

    def test_a_killed_run_is_resumed_to_the_same_bits(self):
        expected, reference = self.train(*SHORT, "--nodes", 1)
        output, ledger = self.output(), self.folder / "ledger"
        process = self.start_short(output, 2, "--ledger", ledger)
        process.kill()
        finish(process)
        done = runs.run("train", *SHORT, "--output", output)
        self.assert_fails(done, 1, output, "--resume")
        done = runs.run("train", "--resume", "--seed", 3, "--output", output)
        self.assert_fails(done, 1, "seed: 0 there, 3 here")
        done = runs.run("train", "--resume", "--nodes", 3, "--output", output, "--ledger", ledger)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"resumed from step \d+ \(term 2\)")
        self.assertEqual(runs.sha256_of(done.stdout), expected)
        self.assertEqual(runs.run("diff", reference, output).returncode, 0)
        check = runs.run(runs.ROOT / "tests/interop/check_ledger.py", ledger, "--rows", 2000,
                         "--batch-size", 32, "--epochs", 4, "--partitions", 8, "--seed", 0,
                         program=sys.executable)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_a_completed_run_goes_on_to_more_epochs(self):
        expected = faults.reference(SHORT)
        _, output = self.train(*SHORT, "--epochs", 2)
        done = runs.run("train", "--resume", "--output", output)
        self.assert_fails(done, 1, "completed run")
        done = runs.run("train", "--resume", "--epochs", 4, "--output", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(runs.sha256_of(done.stdout), expected)

    def start_short(self, output, nodes, *more):
        """A short run that has its first checkpoint behind it."""
        process = start("train", *SHORT, "--nodes", nodes, "--devices", 1, "--output", output,
                        *more)
        self.addCleanup(runs.stop_processes, process)
        self.read_until(process, "Epoch 1/", 1)
        objects = output / "checkpoints" / "objects"
        runs.wait_until(lambda: len(list(objects.glob("[0-9a-f]*"))) >= 2, "a checkpoint")
        return process

    def test_a_killed_parent_takes_its_nodes_along(self):
        process, children, _ = self.start_training()
        process.kill()
        self.assert_gone(children)

    def test_signals(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process, children, output = self.start_training()
            begin = time.monotonic()
            process.send_signal(number)
            self.assertEqual(finish(process, 10)[0], code)
            self.assertLess(time.monotonic() - begin, 2)
            self.assert_gone(children)
            self.assertEqual([p.name for p in output.iterdir() if p.name.endswith(".tmp")], [])

    def test_a_node_that_is_told_to_go_hands_over(self):
        expected = faults.reference(SHORT)
        process = self.start_short(self.output(), 2)
        os.kill(children_of(process.pid)[0], signal.SIGTERM)
        code, out, err = finish(process)
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"node 'node-\d' handed over at step \d+ and left; 1 node goes on")
        self.assertEqual(runs.sha256_of(out), expected)

    def test_an_output_folder_in_use(self):
        process, _, output = self.start_training()
        done = runs.run("train", *LONG, "--output", output)
        self.assert_fails(done, 1, output, "in use by another process")
        process.send_signal(signal.SIGTERM)
        finish(process, 10)

    def test_a_node_whose_coordinator_dies(self):
        port = runs.free_port()
        coordinator = start("coordinator", *LONG[:-2], "--listen", f"127.0.0.1:{port}",
                            "--output", self.output())
        node = start("node", "--coordinator", f"127.0.0.1:{port}", "--devices", "1",
                     "--coordinator-timeout", "1")
        self.addCleanup(runs.stop_processes, coordinator, node)
        self.read_until(node, "memory plan", 1)
        coordinator.kill()
        code, _, err = finish(node, 20)
        self.assertEqual(code, 1)
        self.assertIn("coordinator", err)


if __name__ == "__main__":
    runs.main()
