"The network as MLflow models: `python mlflow_models.py FOLDER`, in MLflow's environment. As `mlflow.keras` saves it, and as a PythonModel that calls the SavedModel's signature."
import sys
from pathlib import Path

import numpy as np


def main(folder):
    import keras
    import mlflow
    from mlflow.models import infer_signature
    import saved_model
    folder = Path(folder)
    rows = np.load(folder / "expected.npz")["rows"]
    network = keras.models.load_model(folder / "mlp.keras")
    signature = infer_signature(rows, network(rows).numpy())
    mlflow.tensorflow.save_model(network, str(folder / "mlflow-keras"), signature=signature, pip_requirements=[])
    mlflow.pyfunc.save_model(str(folder / "mlflow-saved-model"), python_model=saved_model.SavedModel(), artifacts={"model": str(folder / "mlp" / "1")}, signature=signature, pip_requirements=[], code_paths=[saved_model.__file__])


if __name__ == "__main__": main(sys.argv[1])
