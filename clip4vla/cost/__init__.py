"""What a plan will cost before anything is spent: GPU hours, disk, downloads. All estimates."""
