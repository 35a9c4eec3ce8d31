from dataclasses import replace

from advisor.model import parse_model
from advisor.model_files import ModelFiles
from advisor.readings import CacheConfig
from advisor.snapshot import EngineTarget, Snapshot
from advisor.units import GIB
from exporter.web.what_if import plans
from tests.advisor.examples import LLAMA_8B, reading, server


def test_a_changed_plan_keeps_the_kv_memory_that_the_engine_reports():
    here = replace(reading(), vllm_version="0.32.0+cpu", cache=CacheConfig(kv_cache_memory_bytes=GIB))
    snapshot = Snapshot(
        now_seconds=0.0,
        servers=(server(),),
        engines=(here,),
        targets=(EngineTarget(engine=here.engine, url=here.url, failing=None),),
        models=(ModelFiles(path="/models/m", spec=parse_model(LLAMA_8B), declined=None, weights=None),),
    )

    def capacity(changes):
        return plans(snapshot, changes)[0]["plan"]["kv"]["capacity_tokens"]

    assert capacity({"max_num_seqs": 8}) == capacity({})
