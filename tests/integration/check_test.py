"""lockstep check, and what inspect says of a model's program, costs and graph."""
import json
import re
import xml.etree.ElementTree

import runs



class CheckTest(runs.RunTest):
    def check(self, *arguments):
        done = runs.run("check", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def rows(self, text):
        """nodes -> (devices, idle, partitions, operations, MiB)."""
        found = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+ \w) +([\d.]+): ", text, re.M)
        return {int(nodes): tuple(rest) for nodes, *rest in found}

    def test_what_a_job_takes_for_each_number_of_nodes(self):
        text = self.check("mlp", "--data", "digits:600", "--nodes", "1:5", "--partitions", 4,
                          "--devices", 1)
        self.assertIn("mlp on digits:600: supported", text)
        self.assertIn("P = 4 partitions", text)
        rows = self.rows(text)
        self.assertEqual(sorted(rows), [1, 2, 3, 4, 5])
        self.assertEqual([row[2] for row in rows.values()], ["4", "2", "2", "1", "1"])
        self.assertEqual([row[1] for row in rows.values()], ["0", "0", "0", "0", "1"])
        total = re.search(r"a step: ([\d.]+ \w) operations", text).group(1)
        self.assertEqual(rows[1][3], total)
        # Three-layer perceptron: two operations a weight forward, the same twice backward.
        self.assertRegex(text, r"operations, [\d.]+ M forward and [\d.]+ M backward")

    def test_mixed_precision_is_for_gpus(self):
        policy = {"module": "keras", "class_name": "DTypePolicy",
                  "config": {"name": "mixed_bfloat16"}}
        layers = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 28, 28, 1]}},
                  {"class_name": "Flatten", "config": {"dtype": policy}},
                  {"class_name": "Dense", "config": {"units": 10, "activation": "softmax",
                                                     "dtype": policy}}]
        path = self.folder / "mixed.json"
        job = [path, "--data", "digits:64", "--device", "cpu"]
        path.write_text(json.dumps({"class_name": "Sequential", "module": "keras",
                                    "config": {"name": "mixed", "layers": layers}}))
        text = self.check(*job)
        self.assertIn("ask for mixed_bfloat16: numerics cpu-avx2 compute them in float32", text)
        policy["config"]["name"] = "mixed_float16"
        path.write_text(json.dumps({"class_name": "Sequential", "module": "keras",
                                    "config": {"name": "mixed", "layers": layers}}))
        done = runs.run("check", *job)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("float32 or mixed_bfloat16, --numerics chooses", done.stderr)

    def test_the_memory_is_what_a_node_plans(self):
        job = ["--data", "digits:600", "--devices", 1]
        done = runs.run("train", "--model", "mlp", *job, "--nodes", 2, "--output", self.output())
        planned = re.search(r"memory plan: ([\d.]+) MiB", done.stderr).group(1)
        self.assertEqual(self.rows(self.check("mlp", *job, "--nodes", 2))[2][4], planned)

    def test_all_that_is_in_the_way_is_told_at_once(self):
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": [
            {"class_name": "InputLayer", "config": {"batch_shape": [None, 28, 28, 1]}},
            {"class_name": "Lambda", "config": {"name": "a"}},
            {"class_name": "Mystery", "config": {"name": "b"}}]}}
        path = self.folder / "model.json"
        path.write_text(json.dumps(config))
        done = runs.run("check", path, "--data", "digits:100", "--optimizer", "adamm", "--loss",
                        "nonsense", "--metrics", "f2")
        self.assert_fails(done, 2, "'a'", "'b'", "Lambda", "Mystery", "adamm", "nonsense", "f2",
                          "things are in the way")
        done = runs.run("check", "mlp", "--data", "/nowhere")
        self.assert_fails(done, 2, "/nowhere")

    def test_nothing_is_trained(self):
        before = set(self.folder.iterdir())
        self.check("seed-cnn", "--data", "digits:100", "--nodes", 3)
        self.assertEqual(set(self.folder.iterdir()), before)


class InspectTest(runs.RunTest):
    def model(self):
        _, output = self.train("--model", "seed-cnn", "--data", "digits:64", "--epochs", 1)
        return output / "model.keras"

    def inspect(self, *arguments):
        done = runs.run("inspect", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_the_program_of_a_step(self):
        model = self.model()
        plain = self.inspect(model)
        self.assertRegex(plain, r"operations of a row: [\d.]+ M forward, [\d.]+ M backward")
        text = self.inspect(model, "--program", "--batch-size", 64)
        self.assertIn("a step of 64 rows on cpu-", text)
        self.assertRegex(text, r"(?m)^ +\d+  conv2d.* \(conv2d\+relu\)")
        self.assertRegex(text, r"16 ops, 802 M operations; values lie in [\d.]+ KiB")
        self.assert_fails(runs.run("inspect", model, "--program", "--batch-size", 0), 2,
                          "--batch-size 0")

    def test_the_drawing_is_well_formed(self):
        model = self.model()
        drawing = self.folder / "model.svg"
        self.inspect(model, "--graph", drawing)
        root = xml.etree.ElementTree.parse(drawing).getroot()
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("conv2d", words)
        self.assert_fails(runs.run("inspect", model, "--graph", "/nowhere/x.svg"), 1, "/nowhere")
        self.assert_fails(runs.run("inspect", model, "--grph", "x"), 2, "--graph")


if __name__ == "__main__":
    runs.main()
