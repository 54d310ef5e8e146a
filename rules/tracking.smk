# Every stage as an MLflow run: records of finished stages are replayed into the store.


rule sync_mlflow:
    input:
        layout.records(PLAN),
    output:
        "mlflow/synced.json",
    log:
        "logs/sync_mlflow.log",
    localrule: True
    conda:
        "../envs/clip4vla.yaml"
    params:
        uri=str(PLAN.config.tracking.uri),  # another store is filled, an experiment renamed
        experiment=PLAN.config.tracking.experiment,
    message:
        "Replay all records into MLflow"
    shell:
        "clip4vla sync > {log} 2>&1"
