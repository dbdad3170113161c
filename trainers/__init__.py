"""How one configuration becomes one trained model.

    executors     where trials run: this machine, a Ray cluster, a launcher's processes
    fitting       one fit, epoch by epoch: judged, saved, gone on with
    compression   what is done to a model after its fit
    ranks         several processes that train one model
    programs      what is trained: a module, a LightningCLI project, a function
    devices       which devices a trial gets
    optimization  optimizers and schedules by name
    processes     how processes talk, watch each other and end together
    recipes       ready tasks
    job.py        what a trial is asked, and what it answers

Each imports only from those below it.
"""
