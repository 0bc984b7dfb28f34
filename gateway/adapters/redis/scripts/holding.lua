-- Shared by the steps on a hold that stands: its scopes' counters, and how its reservation changes.

-- Move `amount` out of the hold, the pocket that was drawn last first.
local function release(account, split, amount)
  account.available = account.available + amount
  account.held = account.held - amount
  if account.held < 0 then fail('corrupt: less is held than the hold holds') end
  if not account.pockets then return end
  account.returned = math.min(split[3], amount)
  for i = 3, 1, -1 do
    local part = math.min(split[i], amount)
    account.pockets[i].available = account.pockets[i].available + part
    account.pockets[i].held = account.pockets[i].held - part
    split[i] = split[i] - part
    amount = amount - part
  end
end

-- What came back of a postpaid pocket whose limit was lowered while it was held is not given out again: how much of it goes.
-- What was paid in meanwhile stays; and nothing comes back of what is held no more.
local function lower(account)
  if not account.pockets or account.lowering == 0 then return 0 end
  local pocket = account.pockets[3]
  local cut = math.min(account.lowering, account.returned, pocket.available)
  pocket.available = pocket.available - cut
  account.available = account.available - cut
  account.credited = account.credited - cut
  account.lowering, account.lowered = math.min(account.lowering - cut, pocket.held), true
  return cut
end

local function journal_lowered(key, cut, now, account_id, id)
  if cut == 0 then return end
  journal(key, 'debit', now, account_id, 'lower:' .. id, '-' .. digits(cut) .. ' 0 -' .. digits(cut) .. ' 0 0',
    ' cause=credit_limit')
end

-- The hold's scopes with their counters. nil where the keys that were handed over from KEYS[first] on are not the very
-- keys that the hold reserved on.
local function counters_of(hold, first)
  local counters = {}
  for i, scope in ipairs(hold[SCOPES]) do
    if KEYS[first] ~= scope[1] then return nil end
    first = first + 1
    for _, other in ipairs({scope[2], scope[7] or ''}) do
      if other ~= '' then
        if KEYS[first] ~= other then return nil end
        first = first + 1
      end
    end
    local counter = {key = scope[1], budget = scope[2], measure = scope[3], limit = scope[4], detail = scope[6],
      outbox = scope[7], lifted = scope[8], used = 0, held = 0}
    if scope[3] == 'y' then
      counter.line = call('HGET', scope[1], scope[6])
    elseif scope[3] == 'q' then
      counter.quote = call('HMGET', scope[1], 'state', 'hold')
    else
      local v = call('HMGET', scope[1], 'used', 'held', 'alerted')
      counter.gone, counter.used, counter.held = not v[1], stored(v[1], 'used'), stored(v[2], 'held')
      counter.alerted = v[3] or ''
    end
    counters[i] = counter
  end
  return counters
end

local function keys_reply(hold)
  local reply = {'keys'}
  for _, scope in ipairs(hold[SCOPES]) do
    reply[#reply + 1] = scope[1]
    if scope[2] ~= '' then reply[#reply + 1] = scope[2] end
    if (scope[7] or '') ~= '' then reply[#reply + 1] = scope[7] end
  end
  return reply
end

-- The most that can be had besides what is held: of what is available, and in every scope that counts money. `agreed`: as if
-- every budget that asks had its yes.
local function room_of(account, counters, now, agreed)
  local room = account.available
  for _, counter in ipairs(counters) do
    local limit = counter.limit
    if counter.measure == 'm' and not counter.gone then
      if counter.budget ~= '' then
        local state
        limit, state = limit_of(counter.budget, counter.limit, now)
        if not limit or state ~= 'active' then limit = 0
        elseif counter.lifted or agreed and scope_detail(counter.detail) == 'ask' then limit = EXACT end
      end
      room = math.min(room, limit - counter.used - counter.held)
    elseif counter.measure == 's' then
      room = math.min(room, share_of(account.available + account.held, limit) - counter.held)
    end
  end
  return math.max(room, 0)
end

-- Whether a counter counts money that is held, and changes with the hold's size.
local function holds_money(counter)
  return counter.measure == 'm' or counter.measure == 's'
end

local function save_counter(counter)
  if counter.measure == 'o' or counter.measure == 's' then
    -- It counts what stands now; nothing stands, nothing is kept.
    if counter.held > 0 then call('HSET', counter.key, 'held', digits(counter.held)) else call('DEL', counter.key) end
  elseif counter.key and not counter.gone then
    call('HSET', counter.key, 'used', digits(counter.used), 'held', digits(counter.held))
  end
end
