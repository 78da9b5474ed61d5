"A SavedModel behind MLflow's PythonModel."
import mlflow
import numpy as np


class SavedModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import tensorflow as tf
        self.tf, self.loaded = tf, tf.saved_model.load(context.artifacts["model"])
        self.call = self.loaded.signatures["serving_default"]
        self.name = next(iter(self.call.structured_input_signature[1]))

    def predict(self, context, model_input, params=None):
        return next(iter(self.call(**{self.name: self.tf.constant(np.asarray(model_input, np.float32))}).values())).numpy()
