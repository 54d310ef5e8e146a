# Contrastive pre-training of the audio tower.


rule pretrain:
    input:
        manifests=manifests_of,
        lists=lists_of,
    output:
        config="results/runs/{run_key}/config.json",
        model="results/runs/{run_key}/model.safetensors",
        summary="results/runs/{run_key}/train.json",
        curve="results/runs/{run_key}/metrics.jsonl",
        record="results/runs/{run_key}/record.json",
    log:
        "logs/pretrain/{run_key}.log",
    benchmark:
        "logs/benchmarks/pretrain/{run_key}.tsv"
    wildcard_constraints:
        run_key=keys_of("pretrain"),
    conda:
        "../envs/clip4vla.yaml"
    threads: 4
    message:
        "Pre-train {wildcards.run_key}"
    shell:
        "clip4vla train {wildcards.run_key} --threads {threads} > {log} 2>&1"
