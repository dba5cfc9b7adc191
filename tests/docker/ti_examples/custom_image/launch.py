from ymir_exc.ti import session
from ymir_exc.ti.estimator import Estimator

ti_session = session.Session()
inputs = ti_session.upload_data(path="data", key_prefix="numbers")

estimator = Estimator(
    image_name="my-training",
    role="TIONE_QCSRole",
    train_instance_count=1,
    train_instance_type="local",
    hyperparameters={"epochs": 2},
    ti_session=ti_session,
)
estimator.fit(inputs)
print(estimator.latest_training_job.name)
print(estimator.model_data)
