"""`lockstep bench`: each measurement runs, and says a positive number of what it measures."""
import json

import runs


class BenchTest(runs.RunTest):
    def result(self, *arguments):
        done = runs.run("bench", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def test_each_measures_something(self):
        small = ["--batch-size", 16, "--devices", 1, "--steps", 3]
        self.assertGreater(self.result("step", *small)["images_per_second"], 0)
        self.assertGreater(self.result("step", *small, "--no-digests")["images_per_second"], 0)
        self.assertGreater(self.result("cluster", *small)["images_per_second"], 0)
        self.assertGreater(self.result("peak", "--devices", 1)["gflops"], 0)
        for transport in ("tcp", "shared-memory"):
            found = self.result("average", "--transport", transport, "--megabytes", 1,
                                "--rounds", 3)
            self.assertGreater(found["seconds"], 0)

    def test_unknown_names_are_refused(self):
        self.assertEqual(runs.run("bench", "stp").returncode, 2)


if __name__ == "__main__":
    runs.main()
