# Targets by name beside `all`: parts of the workflow, and every table.


# Ledgers, coverage, shards and manifests of every dataset that a row needs.
rule data:
    input:
        layout.data_outputs(PLAN),
    localrule: True
    message:
        "Finish the data"


# The weights of every pre-training.
rule pretrain:
    input:
        layout.pretrained(PLAN),
    localrule: True
    message:
        "Finish the pre-trainings"


# Tables, figures and the page, without the report and MLflow.
rule tables:
    input:
        layout.table_outputs(PLAN),
        layout.scores(PLAN),
    localrule: True
    message:
        "Finish all tables"


# Snakemake's report; `rule report` is not possible, since `report:` means something else here.
rule:
    name:
        "report"
    input:
        "results/report.zip",
    localrule: True
    message:
        "Finish the report"


# Every table by its name, such as `table5`. With its metrics, since Snakemake does not look behind
# a file that is there: a table whose runs are gone would count as done.
for name in PLAN.tables:

    rule:
        name:
            name
        input:
            layout.table_files(name),
            layout.scores(PLAN, name),
        localrule: True
        message:
            "Finish {rule}"
