"""A dead node ends the job at once; signals end all processes."""
import os
import signal
import time

import runs
from runs import children_of, finish, is_alive, start, wait_until

LONG = ["--model", "seed-cnn", "--data", "digits:2000", "--epochs", "1000", "--devices", "1"]


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

    def test_a_killed_node_ends_the_job(self):
        for number in (0, 1):
            process, children, output = self.start_training()
            begin = time.monotonic()
            os.kill(children[number], signal.SIGKILL)
            code, _, err = finish(process, 10)
            self.assertLess(time.monotonic() - begin, 5)
            self.assertEqual(code, 1, err)
            self.assertRegex(err, rf"node 'node-{number}' \(session \d\) failed at step \d+")
            self.assert_gone(children)
            report = self.report(output)
            self.assertEqual(report["status"], "failed")
            self.assertIn(f"node-{number}", report["error"])
            self.assertFalse((output / "weights.safetensors").exists())

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

    def test_a_signal_to_a_node(self):
        process, children, _ = self.start_training()
        os.kill(children[0], signal.SIGTERM)
        code, _, err = finish(process, 10)
        self.assertEqual(code, 1)
        self.assertIn("node-0", err)
        self.assert_gone(children)

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
        node = start("node", "--coordinator", f"127.0.0.1:{port}", "--devices", "1")
        self.addCleanup(runs.stop_processes, coordinator, node)
        self.read_until(node, "memory plan", 1)
        coordinator.kill()
        code, _, err = finish(node, 20)
        self.assertEqual(code, 1)
        self.assertIn("coordinator", err)


if __name__ == "__main__":
    runs.main()
