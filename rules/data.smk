# ids + annotations -> plan -> fetch -> probe -> ledger -> cache -> manifest. Jobs are shards.


rule plan_dataset:
    output:
        plan="data/{version}/plan.parquet",
        splits="data/{version}/splits.parquet",
    log:
        "logs/plan_dataset/{version}.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Read the annotations of {wildcards.version}"
    shell:
        "clip4vla data plan {wildcards.version} > {log} 2>&1"


rule fetch_shard:
    input:
        "data/{version}/plan.parquet",
    output:
        "data/{version}/shards/{shard}/fetch.parquet",
    log:
        "logs/fetch_shard/{version}/{shard}.log",
    retries: 2
    conda:
        "../envs/clip4vla.yaml"
    resources:
        net_slots=1,
    message:
        "Fetch shard {wildcards.shard} of {wildcards.version}"
    shell:
        "clip4vla data fetch {wildcards.version} {wildcards.shard} > {log} 2>&1"


rule probe_shard:
    input:
        "data/{version}/shards/{shard}/fetch.parquet",
    output:
        "data/{version}/shards/{shard}/probe.parquet",
    log:
        "logs/probe_shard/{version}/{shard}.log",
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Probe shard {wildcards.shard} of {wildcards.version}"
    shell:
        "clip4vla data probe {wildcards.version} {wildcards.shard} > {log} 2>&1"


rule ledger:
    input:
        plan="data/{version}/plan.parquet",
        splits="data/{version}/splits.parquet",
        fetch=per_shard("data/{version}/shards/{shard}/fetch.parquet"),
        probe=per_shard("data/{version}/shards/{shard}/probe.parquet"),
    output:
        ledger="data/{version}/ledger.parquet",
        coverage="data/{version}/coverage.csv",
        missing="data/{version}/missing.tsv",
    log:
        "logs/ledger/{version}.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Join the ledger of {wildcards.version}"
    shell:
        "clip4vla data ledger {wildcards.version} > {log} 2>&1"


rule cache_shard:
    input:
        "data/{version}/ledger.parquet",
    output:
        "data/{version}/cache-{cache_id}/shards/{shard}.parquet",
    log:
        "logs/cache_shard/{version}/{cache_id}/{shard}.log",
    benchmark:
        "logs/benchmarks/cache_shard/{version}/{cache_id}/{shard}.tsv"
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Cache shard {wildcards.shard} of {wildcards.version}: frames and log-mel ({wildcards.cache_id})"
    shell:
        "clip4vla data cache {wildcards.version} {wildcards.cache_id} {wildcards.shard}"
        " > {log} 2>&1"


rule freeze_dataset:
    input:
        ledger="data/{version}/ledger.parquet",
        splits="data/{version}/splits.parquet",
        coverage="data/{version}/coverage.csv",
        index=per_shard("data/{version}/cache-{cache_id}/shards/{shard}.parquet"),
    output:
        manifest="data/{version}/cache-{cache_id}/manifest.json",
        clips="data/{version}/cache-{cache_id}/clips.parquet",
        splits="data/{version}/cache-{cache_id}/splits.parquet",
        record="data/{version}/cache-{cache_id}/record.json",
    log:
        "logs/freeze_dataset/{version}/{cache_id}.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Freeze {wildcards.version} ({wildcards.cache_id})"
    shell:
        "clip4vla data freeze {wildcards.version} {wildcards.cache_id} > {log} 2>&1"
