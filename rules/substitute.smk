# Donors for silent clips: their nearest vision neighbours with sound in the training split.


rule substitute:
    input:
        manifests=manifests_of,
        parents=parents_of,
    output:
        config="results/runs/{run_key}/config.json",
        donors="results/runs/{run_key}/substitution.tsv",
        summary="results/runs/{run_key}/substitute.json",
        sheet=report(
            "results/runs/{run_key}/donors.html",
            category="Silent clips",
            labels=run_labels,
            caption="../workflow/report/donors.rst",
        ),
        record="results/runs/{run_key}/record.json",
    log:
        "logs/substitute/{run_key}.log",
    wildcard_constraints:
        run_key=keys_of("substitute"),
    conda:
        "../envs/clip4vla.yaml"
    threads: 4
    resources:
        rows=rows_of,
    message:
        "Find donors of sound for {resources.rows}"
    shell:
        "clip4vla substitute {wildcards.run_key} --threads {threads} > {log} 2>&1"
