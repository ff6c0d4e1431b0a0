BclassesJ
