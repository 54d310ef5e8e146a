# Contrastive pre-training of the audio tower: on this machine, or as one Slurm job over several nodes that this
# rule submits, waits for, and finds again. The profile says which.


rule pretrain_run:
    input:
        manifests=manifests_of,
        lists=lists_of,
        parents=parents_of,
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
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    threads: 4
    resources:
        rows=rows_of,
        launcher="local",
        nodes=1,
        gpus_per_node=0,
        mem_mb=0,
        runtime=1440,
        gpu_model="any",
        slurm_partition="any",
        slurm_account="any",
        constraint="any",
        qos="any",  # any: whatever the cluster chooses
        slurm_extra="",
    message:
        "Pre-train {resources.rows}"
    shell:
        "clip4vla launch {wildcards.run_key} --threads {threads} --launcher {resources.launcher}"
        " --nodes {resources.nodes} --gpus-per-node {resources.gpus_per_node}"
        " --gpu-model {resources.gpu_model:q} --mem-mb {resources.mem_mb}"
        " --minutes {resources.runtime} --partition {resources.slurm_partition:q}"
        " --account {resources.slurm_account:q} --constraint {resources.constraint:q}"
        " --qos {resources.qos:q} --extra={resources.slurm_extra:q}"
        " > {log} 2>&1"
