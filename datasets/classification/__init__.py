"""Classification data: folders, tables, ImageNet, CIFAR-10 and Stanford Dogs."""
