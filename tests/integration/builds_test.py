"""The same bits from every build that there is: release, debug and the sanitizers'."""
import pathlib

import runs

JOB = ["train", "--model", "lenet", "--data", "digits:96", "--epochs", "1", "--nodes", "2",
       "--devices", "2", "--validation-split", "0.2"]


class BuildsTest(runs.RunTest):
    def test_builds_agree(self):
        builds = sorted(pathlib.Path(runs.LOCKSTEP).parents[1].glob("*/lockstep"))
        if len(builds) < 2:
            self.skipTest(f"only one build in {pathlib.Path(runs.LOCKSTEP).parents[1]}")
        hashes = {}
        for build in builds:
            done = runs.run(*JOB, "--output", self.output(), program=build)
            self.assertEqual(done.returncode, 0, f"{build}: {done.stderr}")
            hashes[build.parent.name] = runs.sha256_of(done.stdout)
        print(hashes)
        self.assertEqual(len(set(hashes.values())), 1, hashes)


if __name__ == "__main__":
    runs.main()
