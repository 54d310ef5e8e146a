# Fine-tuning for retrieval and captioning, and probes for classification.


rule finetune:
    input:
        manifests=manifests_of,
        parents=parents_of,
    output:
        config="results/runs/{run_key}/config.json",
        model="results/runs/{run_key}/model.safetensors",
        summary="results/runs/{run_key}/train.json",
        curve="results/runs/{run_key}/metrics.jsonl",
        record="results/runs/{run_key}/record.json",
    log:
        "logs/finetune/{run_key}.log",
    benchmark:
        "logs/benchmarks/finetune/{run_key}.tsv"
    wildcard_constraints:
        run_key=keys_of("finetune"),
    conda:
        "../envs/clip4vla.yaml"
    threads: 4
    resources:
        rows=rows_of,
    message:
        "Fine-tune {resources.rows}"
    shell:
        "clip4vla train {wildcards.run_key} --threads {threads} > {log} 2>&1"
