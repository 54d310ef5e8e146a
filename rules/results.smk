# metrics -> tables, figures, one page and the Snakemake report.


rule table_sheet:
    output:
        "results/tables/{table}/rows.json",
    log:
        "logs/table_sheet/{table}.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        digest=sheet_digest,
    shell:
        "clip4vla tables sheet {wildcards.table} > {log} 2>&1"


rule build_table:
    input:
        sheet="results/tables/{table}/rows.json",
        metrics=metrics_of,
        paper=PLAN.config.paper,
    output:
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
    shell:
        "clip4vla tables build {wildcards.table} > {log} 2>&1"


rule build_page:
    input:
        tables=expand("results/tables/{table}/tidy.csv", table=PLAN.tables),
        curves=curves(),
        coverage=coverages(),
    output:
        tidy="results/tidy.csv",
        page="results/index.html",
        figures=report(
            layout.figures(PLAN),
            category="Figures",
            caption="../workflow/report/figures.rst",
        ),
        record="results/record.json",
    log:
        "logs/build_page.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    shell:
        "clip4vla tables page > {log} 2>&1"


# Snakemake's own report of the finished tables: a second Snakemake, which only reads.
rule snakemake_report:
    input:
        layout.table_outputs(PLAN),
    output:
        "results/report.zip",
    log:
        "logs/snakemake_report.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        snakefile=workflow.snakefile,
    shell:
        "clip4vla tables report {params.snakefile} > {log} 2>&1"
