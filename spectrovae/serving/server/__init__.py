"""``spectrovae serve``: TensorFlow Serving where it is installed, else a stand-in that speaks its protocols.

    launch     which of the two runs
    stand_in   the process: starts, reloads, shuts down
    rest, rpc  the two protocols
    manager    models and their versions, as they come and go on disk
    engine     calls in a bounded pool of threads
    servable   one loaded version
    batching   requests joined by TensorFlow
    tensors    JSON and TensorProto to arrays and back

No module here imports Keras, and :func:`spectrovae.serving.server.launch.serve` keeps TensorFlow from doing so.
"""
