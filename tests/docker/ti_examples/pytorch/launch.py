from ymir_exc.ti.pytorch import PyTorch

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="TIONE_QCSRole",
    train_instance_count=1,
    train_instance_type="local",
    image_name="my-pytorch",
    hyperparameters={"epochs": 3, "lr": 0.5},
    output_path="file://outputs",
)
estimator.fit(wait=False)

again = PyTorch.attach(training_job_name=estimator.latest_training_job.name)
print(again.model_data)
