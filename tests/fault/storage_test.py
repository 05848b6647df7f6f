"""What the disk does to a run's state: torn, flipped, lost, full; the bits stay, or it is told."""
import os
import re
import shutil
import subprocess
import unittest

import faults
import runs
from faults import JOB, STEPS_PER_EPOCH, wait_for_step

RESUME = ["--nodes", 2, "--devices", 1]


def flip_a_bit(path):
    middle = path.stat().st_size // 2
    with open(path, "r+b") as file:
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


def newest_state(output):
    """Of the log's newest checkpoint: step and file of the state. Files of a checkpoint that was
    not in the log yet when all died may lie beside it."""
    text = runs.run("inspect", output).stdout
    step, checkpoint = re.findall(r"CHECKPOINT step (\d+) ([0-9a-f]{12})", text)[-1]
    state = re.search(rf"{checkpoint}  state ([0-9a-f]{{12}})", text).group(1)
    [file] = (output / "checkpoints" / "objects").glob(state + "*")
    return int(step), file


class DamageTest(faults.FaultTest):
    """One run that was killed, copied for each kind of damage."""

    @classmethod
    def setUpClass(cls):
        cls.base = runs.pathlib.Path(runs.tempfile.mkdtemp(prefix="lockstep-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.base, ignore_errors=True)
        process = faults.Running("train", *JOB, *RESUME, "--checkpoint-every", "20steps",
                                 "--output", cls.base / "run")
        cls.addClassCleanup(process.stop)
        wait_for_step(process.address(), 3 * STEPS_PER_EPOCH + 10, process)
        process.stop()

    def copy(self):
        output = self.output()
        runs.wait_until(lambda: not in_use(self.base / "run"), "the nodes end", 5)
        shutil.copytree(self.base / "run", output)
        return output, output / "checkpoints" / "log"

    def resume(self, output):
        return self.launch("train", "--resume", "--output", output, *RESUME)

    def test_a_torn_tail_is_cut_and_named(self):
        for cut in (1, 7):
            output, log = self.copy()
            size = log.stat().st_size
            os.truncate(log, size - cut)
            process = self.resume(output)
            note = process.wait_for(rf"note: '?{re.escape(str(log))}.*")
            self.assertRegex(note.group(), r"\b\d+ bytes|offset \d+|at \d+")
            self.assert_same(process, output)

    def test_nothing_is_cut_from_a_whole_log(self):
        output, log = self.copy()
        process = self.resume(output)
        self.assert_same(process, output)
        self.assertEqual(process.count(rf"note: .*{re.escape(str(log))}"), 0)

    def test_a_flipped_byte_in_the_middle_stops(self):
        output, log = self.copy()
        data = bytearray(log.read_bytes())
        data[len(data) // 2] ^= 4
        log.write_bytes(data)
        done = runs.run("train", "--resume", "--output", output, *RESUME)
        self.assert_fails(done, 1, log)
        self.assertRegex(done.stderr, r"(byte|offset) \d+")
        self.assertRegex(done.stderr, "restore|copy|backup|choose|start")
        self.assertEqual(log.read_bytes(), data, "a damaged log was changed")

    def test_a_damaged_newest_state(self):
        output, log = self.copy()
        newest, state = newest_state(output)
        flip_a_bit(state)
        process = self.resume(output)
        process.wait_for(rf"note: .*{state.name}")
        step = int(process.wait_for(r"resumed from step (\d+)").group(1))
        self.assertLess(step, newest)
        self.assertGreater(step, 0)
        self.assert_same(process, output)

    def test_a_lost_newest_state(self):
        output, log = self.copy()
        _, state = newest_state(output)
        state.unlink()
        process = self.resume(output)
        process.wait_for(rf"note: .*{state.name[:12]}")
        self.assert_same(process, output)

    def test_all_states_damaged(self):
        output, log = self.copy()
        for state in (log.parent / "objects").iterdir():
            os.truncate(state, state.stat().st_size // 2)
        done = runs.run("train", "--resume", "--output", output, *RESUME)
        self.assert_fails(done, 1, log.parent / "objects", "whole")


class LiveDamageTest(faults.FaultTest):
    def test_a_state_that_is_damaged_while_the_job_waits(self):
        output = self.output()
        coordinator, address = self.start_and_leave(output, STEPS_PER_EPOCH + 10)
        _, state = newest_state(output)
        flip_a_bit(state)
        second = self.start_node(address, "n1")  # nobody has the state but the disk
        self.assertEqual(coordinator.finish(20)[0], 3, coordinator.log())
        self.assertIn(f"{state.name}' is damaged", coordinator.log())
        self.assertEqual(second.finish(10)[0], 3, second.log())
        again, address = self.start_coordinator(output, "--nodes", "1:2")
        self.start_node(address, "n2")
        again.wait_for(rf"note: .*{state.name}")
        self.assert_same(again, output)


class FullDiskTest(faults.FaultTest):
    def mount(self, size):
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount a small file system")
        folder = self.folder / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs",
                               str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.skipTest(f"cannot mount a tmpfs: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(folder)], check=False)
        return folder

    def test_a_full_disk_halts_and_more_room_goes_on(self):
        disk = self.mount("1200k")  # one state and a half
        process, output = self.start_train(nodes=2, output=disk / "run")
        code, out, err = process.finish(40)
        self.assertEqual(code, 3, err)
        self.assertEqual(out, "")
        self.assertRegex(err, "(?i)no space left")
        self.assertIn("--resume", err)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        resumed = self.launch("train", "--resume", "--output", output, *RESUME)
        step = int(resumed.wait_for(r"resumed from step (\d+)").group(1))
        self.assertGreaterEqual(step, STEPS_PER_EPOCH)
        self.assert_same(resumed, output)

    def test_a_full_disk_in_the_log(self):
        disk = self.mount("28m")
        state = disk / "state"
        coordinator, address = self.start_coordinator(self.output(), "--state", state, "--nodes",
                                                      "1:2")
        nodes = [self.start_node(address, "n0")]
        runs.wait_until(lambda: (faults.status(address) or {}).get("checkpoint", 0) > 0,
                        "a checkpoint")
        fill(disk / "filler")
        nodes.append(self.start_node(address, "n1"))  # its view cannot be logged
        code, out, err = coordinator.finish(40)
        self.assertEqual((code, out), (3, ""), err)
        self.assertRegex(err, "(?i)no space left")
        for node in nodes:
            self.assertNotEqual(node.finish(20)[0], 0)
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        again, address = self.start_coordinator(self.output(), "--state", state, "--nodes", "1:2")
        self.start_node(address, "n0")
        self.assert_same(again, self.folder / f"run-{self.runs}")


def fill(path):
    """Takes all the room that is left."""
    try:
        with open(path, "wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass
    except OSError:
        pass


def in_use(output):
    """Whether a process still has the run's data."""
    done = runs.run("-c", "import fcntl,sys; f=open(sys.argv[1]); "
                    "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)", output / ".lock",
                    program=runs.sys.executable)
    return done.returncode != 0


if __name__ == "__main__":
    unittest.installHandler()
    runs.main()
