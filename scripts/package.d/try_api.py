"""Calls everything that the package offers, and each of its errors: try_api.py CHECKPOINT SAME."""

import sys

import reshard

checkpoint, same = sys.argv[1:]


def raised(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        assert type(error) is kind, type(error)
        assert str(error) and "Traceback" not in str(error) and "Exception" not in str(error), error
        return str(error)
    raise AssertionError(f"{call.__name__}{arguments} raised nothing")


assert reshard.ensure(checkpoint, world_size=4) == checkpoint
assert reshard.ensure(checkpoint, world_size=2) == checkpoint + "-world-2"
assert reshard.ensure(checkpoint, gpus=2, progress=False) == checkpoint + "-world-2"
report = reshard.reshard(checkpoint, "by python", world_size=3)
assert (report["sourceWorldSize"], report["targetWorldSize"]) == (4, 3) and report["proven"], report
assert reshard.inspect(checkpoint)["dataParallelRanks"] == 4
assert "Whole" in reshard.doctor(checkpoint)
assert reshard.export(checkpoint, "exported by python", dtype="fp32")["proven"]
verdict = reshard.verify(checkpoint, same)
assert verdict and verdict.equal and verdict.report["verdicts"]
assert reshard.version()

raised(reshard.Refused, reshard.inspect, "nowhere")
raised(reshard.OutputError, reshard.reshard, checkpoint, "by python", world_size=3)
assert "nonsense" in raised(reshard.UsageError, reshard.ensure, checkpoint, world_size=2, nonsense=1)
