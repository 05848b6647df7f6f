"""The promise: the same bits for any number of nodes and devices."""
import itertools

import runs
from runs import MNIST, finish, free_port, sha256_of, start, stop_processes

SMALL = ["--model", "seed-cnn", "--data", "digits:200", "--epochs", "1"]


class ExactTest(runs.RunTest):
    def hashes(self, arguments, nodes=(1, 2, 3, 5), devices=(1,)):
        """The hashes of runs with each number of nodes and devices."""
        return {self.train(*arguments, "--nodes", n, "--devices", d)[0]
                for n, d in itertools.product(nodes, devices)}

    def assert_exact(self, arguments, **variants):
        self.assertEqual(len(self.hashes(arguments, **variants)), 1, arguments)

    def test_nodes_and_devices(self):
        self.assert_exact(SMALL, nodes=(1, 2, 3, 5), devices=(1, 2))

    def test_each_number_of_partitions(self):
        for partitions in (1, 2, 4, 8, 16):
            with self.subTest(partitions=partitions):
                self.assert_exact([*SMALL, "--partitions", partitions], nodes=(1, 3),
                                  devices=(1,))

    def test_partitions_change_the_recipe_but_not_much(self):
        one, output_one = self.train(*SMALL, "--partitions", 1)
        eight, output_eight = self.train(*SMALL, "--partitions", 8)
        self.assertNotEqual(one, eight)
        loss = [self.report(o)["history"]["loss"][0] for o in (output_one, output_eight)]
        self.assertAlmostEqual(loss[0], loss[1], places=3)

    def test_dropout_and_pooling(self):
        self.assert_exact(["--model", "lenet", "--data", "digits:200", "--epochs", "2"],
                          nodes=(1, 2, 3), devices=(1, 2))

    def test_mlp_with_sgd(self):
        self.assert_exact(["--model", "mlp", "--data", "digits:200", "--optimizer", "sgd",
                           "--learning-rate", "0.05"], nodes=(1, 3))

    def test_a_batch_that_partitions_do_not_divide(self):
        self.assert_exact([*SMALL, "--batch-size", 30, "--partitions", 8], nodes=(1, 3))

    def test_a_last_batch_of_one_row(self):
        self.assert_exact(["--model", "seed-cnn", "--data", "digits:129", "--epochs", "2",
                           "--batch-size", "32"], nodes=(1, 2, 3, 5))

    def test_more_nodes_than_partitions(self):
        self.assert_exact([*SMALL, "--partitions", 2], nodes=(1, 3))

    def test_the_widest_numerics(self):
        done = runs.run("train", *SMALL, "--numerics", "cpu-avx512", "--output", self.output())
        if done.returncode != 0:
            self.assertIn("cpu-avx512", done.stderr)
            self.skipTest("this CPU has no AVX-512")
        self.assert_exact([*SMALL, "--numerics", "cpu-avx512"], nodes=(1, 3))

    def test_validation_and_history(self):
        histories = []
        for nodes in (1, 3):
            _, output = self.train(*SMALL, "--validation-split", 0.13, "--nodes", nodes)
            histories.append(self.report(output)["history"])
        self.assertEqual(histories[0], histories[1])
        self.assertEqual(sorted(histories[0]),
                         ["accuracy", "loss", "val_accuracy", "val_loss"])

    def test_the_seed_matters_and_shuffle_too(self):
        plain, _ = self.train(*SMALL)
        other_seed, _ = self.train(*SMALL, "--seed", 1)
        in_order, _ = self.train(*SMALL, "--no-shuffle")
        self.assertEqual(len({plain, other_seed, in_order}), 3)

    def test_mnist(self):
        if not MNIST.is_dir():
            self.skipTest(f"no MNIST at {MNIST}")
        arguments = ["--model", "mlp", "--data", MNIST, "--batch-size", "256"]
        self.assert_exact(arguments, nodes=(1, 2))


class ByHandTest(runs.RunTest):
    def by_hand(self, order):
        """The hash of a job whose processes are started in this order."""
        port = free_port()
        commands = {
            "coordinator": ["coordinator", *SMALL, "--nodes", "2", "--listen",
                            f"127.0.0.1:{port}", "--output", self.output()],
            "a": ["node", "--coordinator", f"127.0.0.1:{port}", "--devices", "1", "--name", "a"],
            "b": ["node", "--coordinator", f"127.0.0.1:{port}", "--devices", "2", "--name", "b"],
        }
        processes = {name: start(*commands[name]) for name in order}
        self.addCleanup(stop_processes, *processes.values())
        code, out, err = finish(processes["coordinator"])
        self.assertEqual(code, 0, err)
        for name in ("a", "b"):
            self.assertEqual(finish(processes[name])[0], 0)
        return sha256_of(out)

    def test_any_order_gives_the_same_bits(self):
        expected, _ = self.train(*SMALL)
        for order in (("coordinator", "a", "b"), ("b", "a", "coordinator")):
            self.assertEqual(self.by_hand(order), expected, order)


if __name__ == "__main__":
    runs.main()
