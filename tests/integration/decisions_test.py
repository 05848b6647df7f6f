"""A program outside decides at the end of each epoch: the pipes of --events and --decisions."""
import contextlib
import json
import os
import signal
import subprocess
import time

import runs

JOB = ["--model", "mlp", "--data", "digits:600", "--validation-split", "0.25", "--batch-size", "32",
       "--optimizer", "sgd", "--partitions", "8", "--devices", 1]
RATES = {0: 0.02, 1: 0.3, 2: 0.004}


class Job:
    """`lockstep train` and whoever decides for it."""

    def __init__(self, *arguments):
        events, self._told = os.pipe()
        self._answers, self.answers = os.pipe()
        self.process = subprocess.Popen(
            [runs.LOCKSTEP, "train", *map(str, [*JOB, *arguments]), "--events", str(self._told),
             "--decisions", str(self._answers)],
            pass_fds=[self._told, self._answers], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=runs.environment())
        os.close(self._told)
        os.close(self._answers)
        self.events = os.fdopen(events)

    def answer(self, **decision):
        os.write(self.answers, (json.dumps(decision) + "\n").encode())

    def until(self, name):
        """The next event of this name."""
        for line in self.events:
            event = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"the events end before '{name}'")

    def finish(self):
        result = runs.finish(self.process)
        self.close()
        return result

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.answers)
        self.events.close()
        runs.stop_processes(self.process)


class DecisionsTest(runs.RunTest):
    def job(self, *arguments):
        job = Job(*arguments)
        self.addCleanup(job.close)
        return job

    def decide_all(self, job, rates, at_epoch=lambda epoch, job: None):
        """Answers with rates, and stops after the last: the hash, the logs that it was told."""
        logs = []
        for epoch, rate in rates.items():
            question = job.until("decide")
            self.assertEqual(question["epoch"], epoch)
            logs.append(question["logs"])
            at_epoch(epoch, job)
            job.answer(epoch=epoch, learning_rate=rate, stop=epoch == max(rates))
        code, out, err = job.finish()
        self.assertEqual(code, 0, err)
        return runs.sha256_of(out), logs

    def test_rates_and_a_stop_are_those_of_callbacks(self):
        """What is decided outside gives the bits of a job whose callbacks decide the same."""
        table = {epoch + 1: rate for epoch, rate in RATES.items()}
        expected, reference = self.train(
            *JOB, "--epochs", 3, "--callbacks", f"LearningRateScheduler(schedule={table})")
        history = self.report(reference)["history"]
        for nodes in (1, 2):
            output = self.output()
            sha256, logs = self.decide_all(
                self.job("--epochs", 9, "--nodes", nodes, "--output", output), RATES)
            self.assertEqual(sha256, expected)
            report = self.report(output)
            self.assertEqual(report["stop_reason"], "Epoch 3: stopped from outside; Epoch 3: "
                                                    "learning rate set to 0.004 from outside")
            for key in ("loss", "val_loss", "accuracy"):
                self.assertEqual(report["history"][key], history[key])
                self.assertEqual([each[key] for each in logs], history[key])
            self.assertEqual(report["history"]["learning_rate"], history["learning_rate"])
            header = (output / "history.csv").read_text().splitlines()[0]
            self.assertIn(",learning_rate,", header)

    def test_decisions_outlive_a_node_and_the_coordinator(self):
        expected, _ = self.decide_all(self.job("--epochs", 9, "--output", self.output()), RATES)

        def kill(epoch, job):
            if epoch == 1:
                os.kill(runs.children_of(job.process.pid)[0], signal.SIGKILL)
                time.sleep(0.2)

        sha256, _ = self.decide_all(
            self.job("--epochs", 9, "--nodes", 2, "--output", self.output()), RATES, kill)
        self.assertEqual(sha256, expected)
        output = self.output()
        job = self.job("--epochs", 9, "--output", output)
        self.assertEqual(job.until("decide")["epoch"], 0)
        job.answer(epoch=0, learning_rate=RATES[0])
        self.assertEqual(job.until("decide")["epoch"], 1)
        job.process.kill()
        job.finish()
        # The first is in the log, the second was not taken: it is asked for again.
        rest = {epoch: rate for epoch, rate in RATES.items() if epoch > 0}
        sha256, _ = self.decide_all(
            self.job("--resume", "--output", output, "--epoch-models"), rest)
        self.assertEqual(sha256, expected)

    def test_the_model_is_there_before_the_question(self):
        output = self.output()
        job = self.job("--epochs", 2, "--epoch-models", "--output", output)
        for epoch in range(2):
            model = job.until("model")
            self.assertEqual(model["epoch"], epoch)
            self.assertEqual(job.until("decide")["epoch"], epoch)
            self.assertTrue(os.path.exists(model["path"]))
            job.answer(epoch=epoch)
        self.assertEqual(job.finish()[0], 0)

    def test_who_is_gone_or_silent_ends_the_job(self):
        job = self.job("--epochs", 9, "--output", self.output())
        job.until("decide")
        begin = time.monotonic()
        os.close(job.answers)
        code, _, err = runs.finish(job.process)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertEqual(code, 1)
        self.assertIn("the program that decides at the end of each epoch is gone", err)
        job = self.job("--epochs", 9, "--output", self.output(), "--decision-timeout", 1)
        job.until("decide")
        code, _, err = job.finish()
        self.assertEqual(code, 3)
        self.assertIn("no decision on epoch 1 came within 1 s", err)

    def test_what_is_no_decision(self):
        job = self.job("--epochs", 9, "--output", self.output())
        job.until("decide")
        job.answer(epoch=0, lr=0.1)
        code, _, err = job.finish()
        self.assertEqual(code, 2)
        self.assertIn("unknown key 'lr'", err)

    def test_flags(self):
        done = runs.run("train", *JOB, "--decisions", 0, "--output", self.output())
        self.assert_fails(done, 2, "--decisions: somebody must read the questions")
        done = runs.run("train", *JOB, "--decisions", 77, "--events", "-", "--output",
                        self.output())
        self.assert_fails(done, 2, "--decisions 77: must be the number of an open file descriptor")


if __name__ == "__main__":
    runs.main()
