"""The manifests of docker/kubernetes: what kustomize makes of them, by the schemas of three
versions of Kubernetes. Needs kubectl and the schemas from PyPI."""
import json
import re
import subprocess
import unittest

import runs

ENVIRONMENT = runs.ROOT / "build" / "venv-support"
MANIFESTS = runs.ROOT / "docker" / "kubernetes"
VERSIONS = ("1.31.0", "1.34.0", "1.37.0")
TO_JSON = "import sys, json, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"


@unittest.skipUnless((ENVIRONMENT / "bin" / "kubernetes-validate").exists(),
                     "no PyPI: kubectl and the schemas of Kubernetes are not here")
class KubernetesTest(runs.RunTest):
    def tool(self, name, *arguments, text=None):
        return subprocess.run([ENVIRONMENT / "bin" / name, *map(str, arguments)], input=text,
                              capture_output=True, text=True, timeout=60, check=False)

    def overlay(self, name):
        """(path of what kustomize makes, its objects)."""
        done = self.tool("kubectl", "kustomize", MANIFESTS / "overlays" / name)
        self.assertEqual(done.returncode, 0, done.stderr)
        path = self.folder / f"{name}.yaml"
        path.write_text(done.stdout)
        return path, json.loads(self.tool("python", "-c", TO_JSON, text=done.stdout).stdout)

    def test_schemas(self):
        for overlay in ("cpu", "gpu"):
            path, _ = self.overlay(overlay)
            for version in VERSIONS:
                done = self.tool("kubernetes-validate", "-k", version, "--strict", path)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertNotIn("ERROR", done.stdout + done.stderr)

    def test_a_schema_can_fail(self):
        path, _ = self.overlay("cpu")
        path.write_text(path.read_text().replace("parallelism: 3", "parallelism: three"))
        done = self.tool("kubernetes-validate", "-k", VERSIONS[0], "--strict", path)
        self.assertIn("parallelism", done.stdout + done.stderr)

    def test_pods_are_restricted(self):
        for overlay in ("cpu", "gpu"):
            jobs = [each for each in self.overlay(overlay)[1] if each["kind"] == "Job"]
            self.assertEqual(len(jobs), 2)
            for job in jobs:
                pod = job["spec"]["template"]["spec"]
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertEqual(pod["securityContext"]["seccompProfile"]["type"],
                                 "RuntimeDefault")
                self.assertFalse(pod["automountServiceAccountToken"])
                for container in pod["containers"]:
                    security = container["securityContext"]
                    self.assertFalse(security["allowPrivilegeEscalation"])
                    self.assertTrue(security["readOnlyRootFilesystem"])
                    self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                    self.assertTrue(container["image"].endswith(
                        {"cpu": ":cpu", "gpu": ":cuda"}[overlay]))

    def test_gpu_nodes(self):
        nodes = next(each for each in self.overlay("gpu")[1]
                     if (each["kind"], each["metadata"]["name"]) == ("Job", "lockstep-nodes"))
        pod = nodes["spec"]["template"]["spec"]
        self.assertEqual(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertIn("nvidia.com/gpu", [each["key"] for each in pod["tolerations"]])

    def test_the_program_knows_the_flags(self):
        for each in self.overlay("cpu")[1]:
            if each["kind"] != "Job":
                continue
            command, *flags = each["spec"]["template"]["spec"]["containers"][0]["args"]
            known = runs.run(command, "--help").stdout
            for flag in flags:
                self.assertRegex(known, rf"(?m)^\s+{re.escape(flag.split('=')[0])}\b")


if __name__ == "__main__":
    runs.main()
