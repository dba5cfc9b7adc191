"""Training jobs as Tencent TI's SDK starts them, on this machine: the same classes, no account, no network.

`session`, `estimator`, `pytorch` and `tensorflow` are the modules that a program imports; `errors` has what they raise. A job is a folder
(`_record`), a process of its own that runs its containers (`_runner`), and a log that any process can follow (`_log`).
"""
