# Scores of one checkpoint on one split, with N, coverage and the hash of the ids.


rule evaluate:
    input:
        manifests=manifests_of,
        parents=parents_of,
        videos=videos_of,
    output:
        config="results/runs/{run_key}/config.json",
        metrics="results/runs/{run_key}/metrics.json",
        predictions="results/runs/{run_key}/predictions.parquet",
        examples=report(
            "results/runs/{run_key}/examples.html",
            category="Examples",
            labels=run_labels,
            caption="../workflow/report/examples.rst",
        ),
        record="results/runs/{run_key}/record.json",
    log:
        "logs/evaluate/{run_key}.log",
    wildcard_constraints:
        run_key=keys_of("evaluate"),
    conda:
        "../envs/clip4vla.yaml"
    threads: 4
    resources:
        rows=rows_of,
    params:
        expected=expected_of,
    message:
        "Evaluate {resources.rows}"
    shell:
        "clip4vla evaluate {wildcards.run_key} --threads {threads} > {log} 2>&1"
