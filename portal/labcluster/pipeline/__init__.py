"""Pipelines: tasks that are done once for the same parameters and code, and recorded by inheriting one class.

    from labcluster.pipeline import Needs, Task
    import luigi

    class Prepare(Task):
        seed = luigi.IntParameter(default=0)

        def run(self):
            self.dump(make_data(self.seed))

    class Train(Task):
        rate = luigi.FloatParameter(default=0.1)
        needs = Needs(gpus=1, memory="8G", time="2h")  # `labctl pipeline run --each`: a run of its own

        def requires(self):
            return Prepare()

        def run(self):
            self.dump(train(self.load(), self.rate, on_epoch=self.report))

It stands on gokart; the extra `pipeline` of labcluster brings it, and the cluster's image python-ml has it.
"""

from labcluster.pipeline.tasks import Needs, Task

__all__ = ["Needs", "Task"]
