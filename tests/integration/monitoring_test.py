"""What operators see: metrics, health, logs for machines, status, and the model out of a run."""
import json
import re
import signal
import sys
import urllib.error
import urllib.request

import faults
import runs

RATE = 0.0078125  # as float32 too
JOB = ["--model", "mlp", "--data", "digits:512", "--validation-data", "digits:32", "--epochs", "40",
       "--batch-size", "32",
       "--callbacks", f"LearningRateScheduler(schedule={{2: {RATE}}})"]
ENVIRONMENT = runs.ROOT / "build" / "venv-support"
DASHBOARD = runs.ROOT / "docker" / "grafana" / "lockstep.json"
NEEDS_GPU = {"lockstep_gpu_memory_used_bytes"}  # a unit test has it, and its label
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z0-9_]+="(?:[^"\\]|\\.)*",?)*)\})? (-?[0-9.e+-]+|NaN)$')


def parse_by_hand(text):
    """{name or name{labels}: value}; fails on what is not Prometheus' text format."""
    types, samples = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind in ("gauge", "counter") and name not in types, line
            assert name.endswith("_total") == (kind == "counter"), line
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.match(line)
            assert match and match[1] in types, line
            key = match[1] + (f"{{{match[2]}}}" if match[2] else "")
            assert key not in samples, line
            samples[key] = float(match[3])
    return samples


def get(port, path):
    """(status, body)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class MonitoringTest(faults.FaultTest):
    def start_cluster(self, *more):
        """(coordinator, its address, its metrics' port, node, the node's metrics' port)."""
        self.run_folder = self.output()
        ports = [runs.free_port() for _ in range(2)]
        coordinator, address = self.start_coordinator(
            self.run_folder, "--nodes", "1:2", "--metrics-listen", f"127.0.0.1:{ports[0]}",
            "--checkpoint-every", "50steps", *more, job=JOB)
        coordinator.wait_for("waiting for")
        self.assertEqual(get(ports[0], "/readyz")[0], 200)
        nodes = [self.start_node(address, f"n{index}", *(
            ["--metrics-listen", f"127.0.0.1:{ports[1]}"] if index == 0 else []), *more,
            data="digits:512") for index in range(2)]
        runs.wait_until(lambda: faults.step_of(address) >= 60, "steps")
        return coordinator, address, ports[0], nodes, ports[1]

    def test_metrics_status_and_fetch(self):
        coordinator, address, port, nodes, node_port = self.start_cluster()
        self.assertEqual(get(port, "/healthz")[0], 200)
        self.assertEqual(get(port, "/nowhere")[0], 404)
        text = get(port, "/metrics")[1]
        samples = parse_by_hand(text)
        self.assertGreaterEqual(samples["lockstep_step"], 60)
        self.assertEqual(samples["lockstep_term"], 1)
        self.assertEqual(samples['lockstep_nodes{state="working"}'], 2)
        self.assertGreater(samples['lockstep_training_metric{metric="loss"}'], 0)
        self.assertGreater(samples["lockstep_samples_per_second"], 0)
        self.assertGreater(samples["lockstep_step_seconds"], 0)
        self.assertGreaterEqual(samples["lockstep_checkpoint_step"], 16)
        self.assertGreaterEqual(samples["lockstep_checkpoint_age_seconds"], 0)
        self.assertGreater(samples['lockstep_state_bytes_total{path="received"}'], 0)
        self.assertEqual(samples["lockstep_recoveries_total"], 0)
        node_text = get(node_port, "/metrics")[1]
        of_node = parse_by_hand(node_text)
        self.assertGreaterEqual(of_node["lockstep_node_step"], 60)
        self.assertGreater(of_node["process_resident_memory_bytes"], 1 << 20)
        sent = [value for key, value in of_node.items() if "tensor_bytes" in key and "sent" in key]
        self.assertGreater(sum(sent), 0)
        self.assertEqual(get(node_port, "/readyz")[0], 200)
        probe = runs.run("probe", "--metrics-listen", f"127.0.0.1:{port}")
        self.assertEqual((probe.returncode, probe.stdout), (0, "ok\n"), probe.stderr)
        self.parse_by_prometheus(text, node_text)
        self.assert_dashboard_finds([*samples, *of_node])

        table = runs.run("status", address).stdout
        for word in ("mlp on digits:512", "training", "n0", "n1", "loss:", "samples/s",
                     "partitions"):
            self.assertIn(word, table)
        self.watch(address)
        self.fetch(address)
        self.assert_same(coordinator, self.run_folder, JOB)
        for node in nodes:
            self.assertEqual(node.finish()[0], 0, node.log())
        self.assertEqual(runs.run("probe", "--metrics-listen", f"127.0.0.1:{port}").returncode, 1)

    def watch(self, address):
        """The status again and again, until Ctrl-C; not a terminal, which would be cleared."""
        watching = self.launch("status", address, "--watch")
        runs.wait_until(lambda: sum("mlp on" in line for line in watching.out) >= 2, "two tables")
        watching.kill(signal.SIGINT)
        code, out, _ = watching.finish(5)
        self.assertEqual(code, 130)
        self.assertNotIn("\033", out)

    def fetch(self, address):
        folder = self.folder / "fetched"
        done = runs.run("fetch", address, "--output", folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"step \d+ of 640")
        evaluated = runs.run("evaluate", "--model", folder, "--data", "digits:64")
        self.assertEqual(evaluated.returncode, 0, evaluated.stderr)
        # The model's optimizer has the rate that the job has come to.
        _, output = self.train("--model", folder / "model.keras", "--data", "digits:64")
        job = json.loads((output / "job.json").read_text())
        self.assertEqual(job["optimizer"]["learning_rate"], RATE)

    def parse_by_prometheus(self, *texts):
        """The same by Prometheus' own parser, where PyPI could be reached."""
        packages = list(ENVIRONMENT.glob("lib/python3*/site-packages"))
        sys.path += map(str, packages)
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ImportError:
            self.prometheus = False
            return
        for text in texts:
            families = list(text_string_to_metric_families(text))
            self.assertGreater(len(families), 5)
            for family in families:
                self.assertIn(family.type, ("gauge", "counter"), family.name)
                self.assertTrue(family.documentation, family.name)

    def assert_dashboard_finds(self, keys):
        """Each metric of Grafana's dashboard, and each label that it shows, among the samples."""
        targets = [target for panel in json.loads(DASHBOARD.read_text())["panels"]
                   for target in panel["targets"]]
        labels = {}
        for key in keys:
            name, _, rest = key.partition("{")
            labels[name] = set(re.findall(r'(\w+)="', rest))
        asked = set()
        for target in targets:
            expression = target["expr"]
            names = re.findall(r"\b(?:lockstep|process)_\w+", expression)
            self.assertEqual(len(names), 1, expression)
            asked.add(names[0])
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            shown |= {each.strip() for group in re.findall(r"by \(([^)]*)\)", expression)
                      for each in group.split(",")}
            if names[0] in labels:  # Prometheus itself adds the instance
                self.assertLessEqual(shown - {"instance"}, labels[names[0]], expression)
        self.assertEqual(asked - set(labels), NEEDS_GPU)

    def test_the_parser_of_prometheus_is_here(self):
        if not list(ENVIRONMENT.glob("lib/python3*/site-packages/prometheus_client")):
            self.skipTest("no PyPI: metrics are parsed by a few lines of this test alone")

    def test_logs_for_machines(self):
        coordinator, _, _, nodes, _ = self.start_cluster("--log-format", "json")
        nodes[1].kill()
        self.assert_same(coordinator, self.run_folder, JOB)
        nodes[0].finish()
        for process, name in ((coordinator, "coordinator"), (nodes[0], "n0")):
            lines = [json.loads(line) for _, line in process.lines]
            for line in lines:
                self.assertEqual(list(line),
                                 ["time", "job", "node", "term", "view", "step", "message"])
                self.assertEqual(line["node"], name)
            last = lines[-1]
            self.assertRegex(last["job"], "^[0-9a-f]{12}$")
            self.assertEqual((last["term"], last["step"]), (1, 640), last)
            self.assertGreaterEqual(last["view"], 2)
        self.assertTrue(any("died at step" in json.loads(line)["message"]
                            for _, line in coordinator.lines))
        self.assert_fails(runs.run("train", *JOB, "--log-format", "xml"), 2, "json")


if __name__ == "__main__":
    runs.main()
