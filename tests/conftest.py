"""What tests share."""

import torch

torch.set_num_threads(1)  # for models this small, waking a second thread costs more than it does
