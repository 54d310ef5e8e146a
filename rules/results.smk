# metrics -> tables, figures, one page and the Snakemake report.


rule build_table:
    input:
        metrics=metrics_of,
        paper=PLAN.config.paper,
    output:
        sheet="results/tables/{table}/rows.json",
        tidy="results/tables/{table}/tidy.csv",
        html=report(
            "results/tables/{table}/table.html",
            category="Tables",
            labels={"table": "{table}", "form": "table"},
            caption="../workflow/report/table.rst",
        ),
        bars=report(
            "results/tables/{table}/bars.png",
            category="Tables",
            labels={"table": "{table}", "form": "bars"},
            caption="../workflow/report/bars.rst",
        ),
        others=expand(
            "results/tables/{{table}}/{name}",
            name=["table.md", "table.tex", "table.csv", "bars.svg"],
        ),
    log:
        "logs/build_table/{table}.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        digest=sheet_digest,
    message:
        "Build {wildcards.table}"
    shell:
        "clip4vla tables build {wildcards.table} --out results > {log} 2>&1"


# One row, trained and scored alone, and its numbers: the target `results/rows/table5/type_token`.
rule build_row:
    input:
        metrics=metrics_of,
        paper=PLAN.config.paper,
    output:
        "results/rows/{table}/{row}",
    log:
        "logs/build_row/{table}/{row}.log",
    wildcard_constraints:
        row="[a-z][a-z0-9_]*",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        digest=sheet_digest,
    message:
        "Write the numbers of {wildcards.table}, {wildcards.row}"
    shell:
        "clip4vla tables row {wildcards.table} {wildcards.row} > {output} 2> {log}"


rule build_page:
    input:
        sheets=expand("results/tables/{table}/rows.json", table=PLAN.tables),
        # What its record names: else the page could be made before a table.
        tables=expand(
            "results/tables/{table}/table.{kind}",
            table=PLAN.tables,
            kind=["md", "csv"],
        ),
        metrics=layout.scores(PLAN),
        curves=curves(),
        coverage=coverages(),
        paper=PLAN.config.paper,
    output:
        page=report(
            "results/index.html",
            category="Everything",
            labels={"file": "one page"},
            caption="../workflow/report/index.rst",
        ),
        tidy=report(
            "results/tidy.csv",
            category="Everything",
            labels={"file": "all numbers"},
            caption="../workflow/report/tidy.rst",
        ),
        difference=report(
            "results/figures/difference.png",
            category="Figures",
            labels={"figure": "ours minus paper"},
            caption="../workflow/report/difference.rst",
        ),
        coverage=report(
            "results/figures/coverage.png",
            category="Figures",
            labels={"figure": "coverage"},
            caption="../workflow/report/coverage.rst",
        ),
        cost=report(
            "results/figures/cost.png",
            category="Figures",
            labels={"figure": "cost"},
            caption="../workflow/report/cost.rst",
        ),
        numbers=report(
            "results/numbers.tex",
            category="Everything",
            labels={"file": "LaTeX macros"},
            caption="../workflow/report/numbers.rst",
        ),
        curves=report(
            expand(
                "results/figures/curves-{stage}.png", stage=layout.trained_stages(PLAN)
            ),
            category="Figures",
            caption="../workflow/report/curves.rst",
        ),
        sweeps=report(
            expand("results/figures/{table}.png", table=layout.swept(PLAN)),
            category="Figures",
            caption="../workflow/report/sweep.rst",
        ),
        vectors=layout.figures(PLAN, "svg"),
        record="results/record.json",
    log:
        "logs/build_page.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    message:
        "Draw the figures and the page"
    shell:
        "clip4vla tables page --out results > {log} 2>&1"


# Snakemake's own report of the finished tables: a second Snakemake, which only reads.
rule snakemake_report:
    input:
        layout.table_outputs(PLAN),
        layout.scores(PLAN),
    output:
        "results/report.zip",
    log:
        "logs/snakemake_report.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        snakefile=workflow.main_snakefile,
    message:
        "Pack the Snakemake report"
    shell:
        "clip4vla tables report {params.snakefile:q} > {log} 2>&1"
